#!/bin/sh
# links.sh: every relative link in the documents leads somewhere, and every file that they name exists. `make links` runs it.
# A file is named by a path that begins with a folder of the project (`base/err.h`, `configs/S.json`), or by its last part
# alone (`glm_tools.c`). A name without an ending (`base/direct_io`) stands for a module or a folder. Patterns and the
# placeholders name.c, op_name.c, kernel_name.c, module.c, NAME and FOLDER are left out.
cd "$(dirname "$0")/.." || exit 2
bad=0
all=$(git ls-files)
folders=$(echo "$all" | sed -n 's|/.*||p' | sort -u | tr '\n' '|' | sed 's/|$//; s/\./\\./g')
for document in $(git ls-files '*.md' | grep -v '^tests/fixtures/'); do
    folder=$(dirname "$document")
    for target in $(grep -oE '\]\([^)]+\)' "$document" | sed 's/^](//; s/)$//' | grep -vE '^(https?|mailto):'); do
        file=${target%%#*} anchor=${target#"${target%%#*}"}
        [ -z "$file" ] || [ -e "$folder/$file" ] || { echo "links: $document links to $file, which does not exist"; bad=1; }
        [ -z "$anchor" ] || [ -n "$file" ] || tr 'A-Z ' 'a-z-' <"$document" | sed 's/[^a-z0-9_#-]//g' | grep -qE "^##*-${anchor#\#}\$" ||
            { echo "links: $document links to $anchor, which is no heading of it"; bad=1; }
    done
    for name in $(grep -oE "(^|[^A-Za-z0-9_./~-])($folders)/[A-Za-z0-9_./*-]*[A-Za-z0-9_*]" "$document" | sed -E 's/^[^A-Za-z.]//' | sort -u); do
        case $name in *'*'* | *NAME* | *FOLDER* | */name.* | */op_name.*| */module.* | */kernel_name.*) continue ;; esac
        [ -e "$name" ] || [ -e "$name.c" ] || [ -e "$name.h" ] || [ -e "$folder/$name" ] ||
            { echo "links: $document names $name, which does not exist"; bad=1; }
    done
    for name in $(grep -oE '(^|[^A-Za-z0-9_./*-])[a-z][a-z0-9_]*\.(c|h|sh)([^A-Za-z0-9_*]|$)' "$document" | sed -E 's/^[^a-z]//; s/[^a-z]$//' | sort -u); do
        case $name in name.* | op_name.* | module.* | kernel_name.*) continue ;; esac
        echo "$all" | grep -qE "(^|/)$name\$" || { echo "links: $document names $name, which does not exist"; bad=1; }
    done
done
# In the sources: docs/NAME.md, and the section that is named behind it: docs/design.md, section 3; docs/design.md, "The same bits".
sources=$(git ls-files '*.c' '*.h' '*.sh' '*.py')
for name in $(grep -ohE 'docs/[a-z0-9_]+\.(md|png)' $sources | sort -u); do
    [ -e "$name" ] || { echo "links: the sources name $name, which does not exist"; bad=1; }
done
headings() { grep -ohE 'docs/[a-z0-9_]+\.md, (section [0-9]+|"[^"]+")' $sources | grep -v 'NAME' | sort -u; }
missing=$(headings | sed 's/, section \([0-9]*\)/|## \1. /; s/, "\(.*\)"/|\1/' | while IFS='|' read -r file text; do
    grep -q "^##.*$text\|^$text" "$file" || echo "links: the sources name \"$text\" of $file, which has no such heading"; done)
[ -z "$missing" ] || { echo "$missing"; bad=1; }
[ "$bad" = 0 ] && echo "links: every link and every path in the documents exists"
exit "$bad"
