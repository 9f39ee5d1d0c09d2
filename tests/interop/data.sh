#!/bin/sh
# data.sh TOKENIZER_IDS N: N random strings against the `tokenizers` library of PyPI, in a Python environment that
# is removed at the end.
set -eu
tool=$1 n=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q --disable-pip-version-check tokenizers
for name in glm5shaped removed qwen3 deepseek; do gzip -dc "tests/fixtures/tokenizer/$name.tokenizer.json.gz" > "$scratch/$name.json"; done
cp examples/tiny-glm5/tokenizer.json "$scratch/tinyglm5.json"
"$scratch/venv/bin/python" tests/interop/data.py "$tool" "$n" "$scratch"/*.json
