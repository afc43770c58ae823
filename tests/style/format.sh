#!/usr/bin/env bash
#
# format.sh [--mend] - names the C files of ours that clang-format would change, and fails if there are any;
# with --mend it changes them.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

over_sources() {
    find . \( -path ./build -o -path ./data -o -path './.*' \) -prune -o -name '*.[ch]' -print0 |
        xargs -0 -P "$(nproc)" -n 16 "$@"
}

if [ "${1:-}" = --mend ]; then
    over_sources clang-format -i
elif over_sources clang-format --dry-run --Werror --ferror-limit=1; then
    echo "all C files are formatted"
else
    echo "run ./dev fmt"
    exit 1
fi
