#!/bin/sh
# source.sh [PATH...]: form of the source files, or of those under the paths. `make source` runs it.
#   comments  every .c file opens with a comment: what it is for
#   lengths   no .c file has more than 450 lines, except those listed here with the reason
#   casts     no cast takes const away by way of an integer: (T *)(size_t)x
cd "$(dirname "$0")/.." || exit 2
longest=450
longer() { # FILE and the reason why it is not split
    cat <<'LIST'
LIST
}
files=$(mktemp)
trap 'rm -f "$files"' EXIT
git ls-files -co --exclude-standard -- "$@" | sort -u | grep '\.[ch]$' | while read -r file; do [ -f "$file" ] && echo "$file"; done >"$files"
found() { # LINES OF NAMES, WHAT: print each, and remember
    [ -z "$1" ] && return
    echo "$1" | sed "s|$|: $2|"
    bad=1
}
bad=0
found "$(grep '\.c$' "$files" | while read -r file; do [ "$(head -c 2 "$file")" = '/*' ] || echo "$file"; done)" 'opens without a comment'
found "$(grep '\.c$' "$files" | while read -r file; do
    longer | grep -q "^$file " || [ "$(wc -l <"$file")" -le $longest ] || echo "$file:$(wc -l <"$file")"; done)" "more than $longest lines"
found "$(xargs -r grep -nHE '\*[ a-z]*\) ?\((size_t|u?intptr_t)\)' <"$files")" '  a cast takes const away'
found "$(longer | while read -r file reason; do [ -f "$file" ] && [ "$(wc -l <"$file")" -gt $longest ] || echo "$file"; done)" 'need not be among the longer files of tests/source.sh'
[ "$bad" = 0 ] && echo "source: $(grep -c '\.c$' "$files") .c files open with a comment, none is too long, no cast takes const away"
exit "$bad"
