#!/bin/sh
# race.sh GRAFT DIR: compare graft with transformers and peft on the same files, tokens and initial adapter: first the losses of
# every step, then speeds, taking turns. DIR keeps the model, the environment and every record, and they are used again.
#   RACE_VENV     an environment that has the packages already
#   RACE_ROUNDS   rounds of speeds (3)
#   RACE_RUN      a command that runs each measurement, such as one that reserves the machine
#   RACE_PARTS    "losses attn+experts attn generate"
set -eu
graft=$1 dir=$2
here=$(dirname "$0")
venv=${RACE_VENV:-$dir/venv} rounds=${RACE_ROUNDS:-3} run=${RACE_RUN:-} parts=${RACE_PARTS:-losses attn+experts attn generate}
model=$dir/S
export HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=2
mkdir -p "$dir"
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch==2.15.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0 numpy
fi
[ -f "$model/config.json" ] || "$graft" bench "$model" --make S --seed 0

# quiet COMMAND...: repeat until no other program disturbed the measurement, at most three times
quiet() {
    for try in 1 2 3; do
        "$@"
        python3 "$here/compare.py" quiet "$out" && return
    done
    echo "race: other programs disturbed $out three times" >&2
}
peer_once() {
    $run "$venv/bin/python" "$here/$script" "$model" "$@" 2>"$dir/peer.log" >"$out.draft" || { cat "$dir/peer.log"; exit 1; }
    mv "$out.draft" "$out"
}
ours_once() {
    $run "$graft" bench "$model" --json "$out" "$@" >"$dir/graft.log" 2>&1 || { cat "$dir/graft.log"; exit 1; }
}
# peer NAME SCRIPT ARGS..., ours NAME ARGS...: one record, in DIR/NAME.json
peer() {
    out=$dir/$1.json script=$2
    shift 2
    quiet peer_once "$@"
}
ours() {
    out=$dir/$1.json
    shift
    quiet ours_once "$@"
}
for part in $parts; do
    case $part in
    losses)
        for targets in attn+experts attn; do
            for dtype in fp32 bf16; do
                adapter=fp32
                [ "$dtype" = bf16 ] && adapter=base
                peer "losses-$targets-$dtype-peer" peer_step.py --dtype "$dtype" --adapter-dtype "$adapter" --targets "$targets" \
                    --warm 1 --steps 3 --save-init "$dir/init-$targets-$dtype"
                ours "losses-$targets-$dtype-graft" --init_adapter "$dir/init-$targets-$dtype" --compute "$dtype" --warm_up 1 --steps 3
            done
        done
        python3 "$here/compare.py" losses "$dir" ;;
    attn+experts)
        for i in $(seq "$rounds"); do # the fastest setting of the peer: no page of a tensor is returned to the system
            MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 peer "speed-$part-$i-peer" peer_step.py --dtype bf16 --adapter-dtype base --targets "$part" --steps 5
            ours "speed-$part-$i-graft" --init_adapter "$dir/init-$part-bf16" --steps 7
        done ;;
    attn)
        for i in $(seq "$rounds"); do
            peer "speed-$part-$i-peer" peer_step.py --dtype bf16 --adapter-dtype base --targets "$part" --compile --steps 8
            ours "speed-$part-$i-graft" --init_adapter "$dir/init-$part-bf16" --steps 7
        done ;;
    generate)
        for i in $(seq "$rounds"); do
            peer "speed-$part-$i-peer" peer_generate.py --dtype bf16
            ours "speed-$part-$i-graft" --generate --prompt 512 --new 64
        done ;;
    esac
done
python3 "$here/compare.py" speeds "$dir"
