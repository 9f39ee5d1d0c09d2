#!/bin/sh
# Run every test program given; print one line for each, the whole output of those that fail, and a count at the end.
# Threads that spin for each other make tests several times slower beside other work.
export OMP_WAIT_POLICY=passive
passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for program in "$@"; do
    if "$program" >"$log" 2>&1; then
        n=$(sed -n 's/.*\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log" | tail -n 1)
        passed=$((passed + ${n:-0}))
        printf '  ok    %-40s %s\n' "${program#*/tests/}" "${n:-0}"
    else
        cat "$log"
        printf '  FAIL  %s\n' "$program"
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
