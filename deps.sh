#!/bin/sh
# Install the packages named as arguments that are missing. Only Debian's package manager is driven; elsewhere the
# libraries are named and the check is left to pkg-config.
set -eu
if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "graft needs these libraries (Debian's names): $*" >&2
    command -v pkg-config >/dev/null 2>&1 || { echo "deps: pkg-config is missing" >&2; exit 1; }
    missing=''
    for library in ompi-c hdf5 libcjson libpng freetype2 libpcre2-8 libutf8proc zlib libzstd libedit cmocka; do
        pkg-config --exists "$library" || missing="$missing $library"
    done
    [ -z "$missing" ] && exit 0
    echo "deps: not found by pkg-config:$missing; install them with your package manager" >&2
    exit 1
fi
missing=''
for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
echo "deps: installing$missing"
sudo=''
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || { echo "deps: run as root: apt-get install$missing" >&2; exit 1; }
    sudo=sudo
fi
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list of words is meant
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
