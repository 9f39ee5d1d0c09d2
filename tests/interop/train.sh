#!/bin/sh
# train.sh GRAFT: the real TensorBoard, from PyPI in a throw-away environment, reads the event files of a run that was
# stopped and resumed.
set -eu
graft=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tensorboard numpy
train() { "$graft" train configs/devils.json --output_dir "$work/run" --train_router --seq_aux_loss_coef 0.01 --save_steps 3 --eval_steps 3 "$@"; }
train --max_steps 6 --lr_scheduler_type constant --warmup_ratio 0
train --max_steps 9 --lr_scheduler_type constant --warmup_ratio 0 --resume_from_checkpoint "$work/run/checkpoint-000003.h5"
"$work/venv/bin/python" tests/interop/event_files.py "$work/run"
