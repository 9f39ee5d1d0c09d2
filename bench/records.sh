#!/bin/sh
# records.sh N: N conversations of two turns made of the demo's, about 1 kB each and each with its own number, on the
# standard output. Ten million are 10 GB.
awk -v n="$1" '
{ sub(/^{"messages": \[/, ""); sub(/\]}$/, ""); turns[NR] = $0 }
END {
    for (i = 1; i <= n; i++)
        printf "{\"messages\": [{\"role\": \"system\", \"content\": \"Conversation %d.\"}, %s, %s]}\n", i, turns[i % NR + 1], turns[int(i / NR) % NR + 1]
}' examples/devils/devils_train.jsonl
