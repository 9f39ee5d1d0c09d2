#!/bin/sh
# The demo: teach a small dictionary model the Devil's Dictionary, then compare base and adapter.
# demo.sh GRAFT OUTPUT_DIR
set -eu
graft=$1 out=$2
model=examples/tiny-glm5 eval_set=examples/devils/devils_eval.jsonl
words='egotist marriage politics telephone money'

"$graft" train configs/devils.json --output_dir "$out" --overwrite_output_dir --ranks 2

echo
echo "The held-out set: 98 definitions that were not trained on"
"$graft" eval --model "$model" --data "$eval_set" --max_length 512 --adapter "$out/adapter"

say() { # label word [--adapter DIR]
    label=$1 word=$2
    shift 2
    printf '  %-7s ' "$label"
    "$graft" generate --model "$model" --prompt "Define \"$word\"." --max_new_tokens 40 --seed 3 "$@" | tr "\n" " " | tr -s " "
    echo
}

for word in $words; do
    echo
    echo "$word"
    say before "$word"
    say after "$word" --adapter "$out/adapter"
done

echo
"$graft" plot "$out" --output "$out/loss.png" --title "tiny-glm5 learns the Devil's Dictionary"
echo "The curve is in $out/loss.png, the adapter in $out/adapter."
