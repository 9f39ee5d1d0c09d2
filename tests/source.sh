#!/bin/sh
# source.sh [PATH...]: form of the source files, or of those under the paths. `make source` runs it.
#   comments  every .c file opens with a comment: what it is for
#   lengths   no .c file has more than 450 lines, except those listed here with the reason
#   width     no line of a C file has more than 120 columns: clang-format leaves comments alone
#   casts     no cast takes const away by way of an integer: (T *)(size_t)x
# First a planted file that breaks all four must be found.
cd "$(dirname "$0")/.." || exit 2
limit=450
longer() { # a line for each: FILE and the reason why it is not split
    cat <<'LIST'
LIST
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

check() { # LIST: print a line for everything that is wrong in the files that it names
    grep '\.c$' "$1" | while read -r file; do
        [ "$(head -c 2 "$file")" = '/*' ] || echo "$file: opens without a comment"
        lines=$(wc -l <"$file")
        [ "$lines" -le $limit ] || longer | grep -q "^$file " || echo "$file: $lines lines, more than $limit"
    done
    LC_ALL=C.UTF-8 xargs -r grep -nHE '^.{121}' <"$1" | sed 's/:[^:]*$/: more than 120 columns/; s/\(:[0-9]*\):.*/\1: more than 120 columns/'
    xargs -r grep -nHE '\*[ a-z]*\) ?\((size_t|u?intptr_t)\)' <"$1" | sed 's/$/   <- a cast takes const away/'
}

echo "$scratch/planted.c" >"$scratch/planted"
{ echo 'char *f = (char *)(size_t)"";'; printf '/*%121s*/\n' ''; seq $limit; } >"$scratch/planted.c"
[ "$(check "$scratch/planted" | wc -l)" = 4 ] || { echo "source: what was planted is not found"; exit 2; }

git ls-files -co --exclude-standard -- "$@" | sort -u | grep '\.[ch]$' | while read -r file; do [ -f "$file" ] && echo "$file"; done >"$scratch/files"
{
    check "$scratch/files"
    longer | while read -r file reason; do
        [ -f "$file" ] && [ "$(wc -l <"$file")" -gt $limit ] || echo "$file: need not be among the longer files of tests/source.sh"
    done
} >"$scratch/wrong"
cat "$scratch/wrong"
[ ! -s "$scratch/wrong" ] || exit 1
echo "source: $(grep -c '\.c$' "$scratch/files") .c files open with a comment, none is too long or too wide, no cast takes const away"
