#!/bin/sh
# words.sh [PATH...]: no old word (tests/words.txt) in the project's files, or in those under the paths. `make words` runs it.
cd "$(dirname "$0")/.." || exit 2
make -s build/tests/words || exit 2
git ls-files -co --exclude-standard -- "$@" | sort -u |
    grep -E '\.(c|h|md|sh|py)$|^Makefile$|^\.ci/run$' |
    grep -vE '^(tests/fixtures|tests/fuzz/corpus|examples/tiny-glm5)/|^tests/words\.|^docs/glossary\.md$' |
    while read -r file; do [ -f "$file" ] && echo "$file"; done |
    xargs build/tests/words tests/words.txt
status=$?
[ "$status" = 123 ] && status=1
exit "$status"
