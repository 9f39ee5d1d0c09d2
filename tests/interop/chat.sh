#!/bin/sh
# chat.sh CHAT_CASES N [DIRECTORY]: N random conversations for each template, against Jinja2, in a Python
# environment that is removed at the end. The templates: GLM-4.7's, which the bundled model ships; GLM-4.5's, which PyPI's trl carries;
# and those in DIRECTORY, taken from model directories: glm51.jinja, glm52.jinja, deepseek_v3.jinja.
set -eu
tool=$1 n=$2 directory=${3:-}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q --disable-pip-version-check jinja2
"$scratch/venv/bin/pip" install -q --disable-pip-version-check --no-deps --target "$scratch/trl" trl
cp examples/tiny-glm5/chat_template.jinja "$scratch/glm47.jinja"
cp "$scratch/trl/trl/chat_templates/glm4moe.jinja" "$scratch/glm45.jinja"
[ -z "$directory" ] || cp "$directory"/*.jinja "$scratch/"
"$scratch/venv/bin/python" tests/interop/chat.py "$n" "$scratch/cases.jsonl" "$scratch"/*.jinja
"$tool" "$scratch/cases.jsonl"
