#!/bin/sh
# Where should LoRA sit? Train every arm with three seeds, evaluate all adapters over one reading of the base, draw the
# curves. run.sh GRAFT OUTPUT_DIR; runs that are finished are not repeated.
set -eu
graft=$1 out=$2 here=experiments/which-experts
adapters=''
for arm in attention experts shared; do
    for seed in 0 1 2; do
        run=$out/$arm-$seed
        [ -f "$run/adapter/adapter_config.json" ] ||
            "$graft" train "$here/$arm.json" --output_dir "$run" --overwrite_output_dir --seed "$seed" --threads 1
        adapters=$adapters${adapters:+,}$run
    done
done
"$graft" eval --model examples/tiny-glm5 --data examples/devils/devils_eval.jsonl --max_length 512 --adapter "$adapters" --json >"$out/eval.json"
"$graft" eval --model examples/tiny-glm5 --data examples/devils/devils_eval.jsonl --max_length 512 --adapter "$adapters"
"$graft" plot "$out/attention-0" "$out/experts-0" "$out/shared-0" --output "$out/which-experts.png" --title "Attention, all experts or the shared one"
