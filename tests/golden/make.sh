#!/usr/bin/env bash
#
# make.sh - make golden databases, by the version in this checkout or by an older one of its history.
#
#     tests/golden/make.sh VERSION [COMMIT]
#
# VERSION is that of the manifest which is written; COMMIT (default: what is checked out) names the source whose
# engine writes. Result: tests/golden/v<VERSION>-*/, each with tree.tar.zst and expected.txt. One that is
# there already is never replaced: what was written once stays readable as it is.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ $# -ge 1 ] || { echo "usage: $0 VERSION [COMMIT]" >&2 && exit 2; }
version=$1
commit=$(git -C "$root" rev-parse --short "${2:-HEAD}")
work=$(mktemp -d "${TMPDIR:-/tmp}/golden-XXXXXX")
source=$root
cleanup() {
    [ "$source" = "$root" ] || git -C "$root" worktree remove --force "$source"
    rm -rf "$work"
}
trap cleanup EXIT
command -v zstd >/dev/null || { echo "$0: needs the command zstd" >&2 && exit 1; }

if [ $# -ge 2 ]; then
    source=$work/source
    git -C "$root" worktree add --quiet --detach "$source" "$commit"
fi
cmake -S "$source" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Debug \
    -DVARVE_TESTS=OFF -DVARVE_BENCH=OFF -DVARVE_SERVER=OFF --log-level=WARNING
cmake --build "$work/build" --target vv_db >&2
# This program and its header are of this checkout, the engine and its headers of the other.
mkdir -p "$work/own/tests"
ln -s "$root/tests/golden" "$work/own/tests/golden"
libraries=()
for layer in db lsm sst wal mem kv io base; do
    libraries+=("$work/build/libvv_$layer.a")
done
# shellcheck disable=SC2046
${CC:-cc} -std=gnu11 -g -DGOLDEN_VERSION="$version" -I "$source" -I "$work/own" -o "$work/make_golden" \
    "$root/tests/golden/make_golden.c" "${libraries[@]}" \
    $(pkg-config --cflags --libs liburing libxxhash jemalloc liblz4 libzstd) -lm -pthread
mkdir "$work/out"
"$work/make_golden" "$work/out" "$version"

for dir in "$work/out"/*; do
    name=${dir##*/}
    if [ -e "$root/tests/golden/$name" ]; then
        echo "$name is there already" >&2
        continue
    fi
    mkdir "$root/tests/golden/$name"
    { echo "commit $commit" && cat "$dir/expected.txt"; } >"$root/tests/golden/$name/expected.txt"
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --format=ustar -C "$dir/tree" \
        -cf "$dir/tree.tar" .
    zstd -q -19 -o "$root/tests/golden/$name/tree.tar.zst" "$dir/tree.tar"
    echo "$name" >&2
done
