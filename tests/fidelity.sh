#!/bin/sh
# fidelity.sh FIDELITY: the comparison can fail. FIDELITY passes on a fixture; it must fail, and name the tensor or the key,
# on copies of it where something is missing or never compared. Names are replaced by others of the same length, so that
# the offsets of the safetensors file still hold.
fidelity=$1 from=tests/fixtures/model/lite_noqlora bad=0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
try() { # WHAT FILE SED-SCRIPT WORD...: every word must be printed
    rm -rf "$folder/case"
    cp -r "$from" "$folder/case"
    LC_ALL=C sed -i "$3" "$folder/case/$2"
    cmp -s "$from/$2" "$folder/case/$2" && { echo "  $1: nothing was changed  FAIL"; bad=1; return; }
    what=$1
    shift 3
    if "$fidelity" "$folder/case" >"$folder/out" 2>&1; then
        echo "  $what: passes  FAIL"; bad=1; return
    fi
    for word in "$@"; do
        grep -qE "$word.*FAIL|FAIL.*$word" "$folder/out" || { echo "  $what: $word is not named  FAIL"; bad=1; return; }
    done
    echo "  $what: found"
}
"$fidelity" "$from" >/dev/null || { echo "  the fixture itself  FAIL"; bad=1; }
try 'a reference tensor is missing' reference.safetensors 's/"hidden\.1"/"hidden.8"/' 'hidden\.1' 'hidden\.8'
try 'a gradient is never compared' reference.safetensors 's/"adapter\.grad\.hidden\.0"/"adapter.grad.hidden.8"/' 'adapter\.grad\.hidden\.8'
try 'choices are missing' reference.safetensors 's/"router\.1\.experts"/"router.8.experts"/' 'router\.1\.experts' 'router\.8\.experts'
try 'greedy tokens are missing' reference.safetensors 's/"greedy"/"greedi"/' greedy
try 'an error of PyTorch is never compared' reference.json 's/"float32_error": {/&"other": {"max_over_rms": 1, "relative_rms": 1},/' other
try 'a loss differs' reference.json 's|"loss": 6.25|"loss": 6.35|' loss
[ "$bad" = 0 ] && echo "fidelity: what is missing is found"
exit "$bad"
