#!/bin/sh
# layers.sh "base tensor data/text ..." "model data ...": a file includes from its own folder and from folders named before it;
# siblings, with the folders inside them, never include each other; each library's headers are included by its wrapper only.
layers=$1 siblings=$2 bad=0
seen=''
is_sibling() { case " $siblings " in *" ${1%%/*} "*) return 0;; esac; return 1; }
for folder in $layers; do
    for file in "$folder"/*.c "$folder"/*.h; do
        [ -f "$file" ] || continue
        for target in $(sed -n 's/^ *# *include "\([a-z/]*\)\/[a-z0-9_]*\.h".*/\1/p' "$file" | sort -u); do
            [ "$target" = "$folder" ] && continue
            case " $seen " in *" $target "*) ;; *) echo "layers: $file includes from $target, which stands above it"; bad=1;; esac
            if is_sibling "$folder" && is_sibling "$target" && [ "${folder%%/*}" != "${target%%/*}" ]; then
                echo "layers: $file includes its sibling $target"; bad=1
            fi
        done
    done
    seen="$seen $folder"
done
for folder in $(find ${layers} -type f -name '*.[ch]' ! -path 'bench/tools/*' | sed 's|/[^/]*$||' | sort -u); do
    case " $layers " in *" $folder "*) ;; *) echo "layers: $folder has source files and is not in LAYERS"; bad=1;; esac
done
wrapper() { # header pattern-of-allowed-files
    for file in $(grep -lE "^ *# *include <($1)" $(for f in $layers; do ls "$f"/*.c "$f"/*.h 2>/dev/null; done)); do
        case "$file" in $2) ;; *) echo "layers: $file includes <$1>; its wrapper is $2"; bad=1;; esac
    done
}
wrapper "(cjson/)?cJSON" base/json.c
wrapper 'hdf5' 'ckpt/h5*.c'
wrapper 'mpi\.h' train/dp.c
wrapper 'pcre2' data/tokenizer/regex.c
wrapper 'png\.h' plot/canvas.c
wrapper 'ft2build' plot/canvas.c
wrapper 'utf8proc' data/text/unicode.c
wrapper 'zlib' data/text/inflate.c
wrapper 'zstd' data/text/inflate.c
wrapper 'editline|readline' cli/line_editor.c
[ "$bad" = 0 ] && echo "layers: includes go one way"
exit "$bad"
