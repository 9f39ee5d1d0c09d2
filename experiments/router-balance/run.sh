#!/bin/sh
# What evens the experts' load? Train the router for an epoch under each balance loss, with a correction bias that follows the
# load, and with neither; then count on held-out data. run.sh GRAFT OUTPUT_DIR; runs that are finished are not repeated.
set -eu
graft=$1 out=$2 here=experiments/router-balance
adapters=''
arm() { # name, options
    run=$out/$1
    shift
    [ -f "$run/adapter/adapter_config.json" ] ||
        "$graft" train "$here/router.json" --output_dir "$run" --overwrite_output_dir --threads 1 "$@"
    adapters=$adapters${adapters:+,}$run
}
arm none
arm aux_loss --aux_loss_coef 1
arm bias --router_bias_update_rate 0.001
arm aux_loss+bias --aux_loss_coef 1 --router_bias_update_rate 0.001
arm seq_aux_loss --seq_aux_loss_coef 1
arm load_balancing_loss --load_balancing_loss_coef 1
arm aux_loss-0.01 --aux_loss_coef 0.01
"$graft" eval --model examples/tiny-glm5 --data examples/devils/devils_eval.jsonl --max_length 512 --adapter "$adapters" --json >"$out/eval.json"
"$graft" eval --model examples/tiny-glm5 --data examples/devils/devils_eval.jsonl --max_length 512 --adapter "$adapters" --routing
"$graft" plot "$out/none" "$out/aux_loss" "$out/bias" "$out/aux_loss+bias" --output "$out/router-balance.png" --title "What evens the experts' load"
