#!/usr/bin/env bash
#
# lint.sh BUILD_DIR - clang-tidy, by .clang-tidy, over all C sources of ours but the tests, as they are compiled in
# BUILD_DIR. A file that passed is not looked at again until it, a header or .clang-tidy changes.

set -euo pipefail

build=$1
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
stamps=$build/lint
mkdir -p "$stamps"

newest_header=$(find . \( -path ./build -o -path ./data -o -path './.*' \) -prune -o -name '*.h' \
    -printf '%T@ %p\n' | sort -rn | sed -n '1s/^[^ ]* //p')

check() {
    local file=$1 stamp=$stamps/${1//\//_}
    if [ "$stamp" -nt "$file" ] && [ "$stamp" -nt "$newest_header" ] && [ "$stamp" -nt .clang-tidy ]; then
        return
    fi
    rm -f "$stamp"
    # clang does not know all of gcc's warnings. Its own chatter about suppressed ones goes to stderr.
    clang-tidy -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option "$file" 2>/dev/null || return 1
    touch "$stamp"
}
export -f check
export stamps build newest_header

if find base io engine rpc cli bench perf -name '*.c' -print0 | sort -z | xargs -0 -P "$(nproc)" -I{} bash -c 'check {}'; then
    echo "clang-tidy finds nothing"
else
    exit 1
fi
