#!/bin/sh
# layers.sh "base tensor ..." "model data ...": a file includes from its own folder and from folders named before it;
# siblings never include each other; each library's header is included by one file (or one folder's door) only.
layers=$1 siblings=$2 bad=0
seen=''
for folder in $layers; do
    for file in "$folder"/*.c "$folder"/*.h; do
        [ -f "$file" ] || continue
        for target in $(sed -n 's/^ *# *include "\([a-z]*\)\/.*/\1/p' "$file" | sort -u); do
            [ "$target" = "$folder" ] && continue
            case " $seen " in *" $target "*) ;; *) echo "layers: $file includes from $target, which stands above it"; bad=1;; esac
            case " $siblings " in *" $folder "*) case " $siblings " in
                *" $target "*) echo "layers: $file includes its sibling $target"; bad=1;; esac;; esac
        done
    done
    seen="$seen $folder"
done
door() { # header allowed-file
    for file in $(grep -lE "^ *# *include <($1)" $(for f in $layers; do ls "$f"/*.c "$f"/*.h 2>/dev/null; done)); do
        [ "$file" = "$2" ] || { echo "layers: $file includes <$1>; its door is $2"; bad=1; }
    done
}
door "(cjson/)?cJSON" base/json.c
door 'hdf5' ckpt/h5.c
door 'mpi\.h' train/dp.c
door 'pcre2' data/pattern.c
door 'png\.h' plot/canvas.c
door 'ft2build' plot/canvas.c
door 'utf8proc' data/unicode.c
door 'zlib' data/packed.c
door 'zstd' data/packed.c
door 'editline|readline' cli/line.c
[ "$bad" = 0 ] && echo "layers: includes go one way"
exit "$bad"
