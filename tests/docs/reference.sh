#!/usr/bin/env bash
#
# reference.sh - `./dev reference`: Doxygen has no complaint of engine/varve.h, and every function has its words.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if ! command -v doxygen >/dev/null; then
    echo "*** SKIPPED: the reference was NOT made: there is no doxygen" >&2
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
    cat docs/Doxyfile
    echo "OUTPUT_DIRECTORY = $work"
} | doxygen -

page=$(find "$work/reference" -name 'varve_8h.html')
missing=0
for name in $(grep -oE '\bvarve_[a-z_]+\(' engine/varve.h | tr -d '(' | sort -u); do
    grep -qw "$name" "$page" || { echo "FAILED: $name is not in the reference" && missing=1; }
done
exit "$missing"
