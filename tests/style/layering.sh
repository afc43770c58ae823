#!/usr/bin/env bash
#
# layering.sh [ROOT] - fails when an include points to the right in
#
#   base <- io <- engine/{kv,mem,wal,sst} <- engine/lsm <- engine/db <- rpc <- cli
#
# or sideways: mem, wal and sst know kv but not each other; rpc and cli know of the engine only engine/varve.h;
# an _impl.h is for its own folder alone; io_uring is for io/uring_*.c alone. tests/ and bench/ may include
# anything. Prints each offender as FILE:LINE: what and why. Exit codes: 0 clean, 1 offenders, 2 usage.

set -euo pipefail

root=${1:-$(dirname "${BASH_SOURCE[0]}")/../..}
cd "$root" || exit 2

declare -A may=(
    [base]='base'
    [io]='base io'
    [engine/kv]='base io engine/kv'
    [engine/mem]='base io engine/kv engine/mem'
    [engine/wal]='base io engine/kv engine/wal'
    [engine/sst]='base io engine/kv engine/sst'
    [engine/lsm]='base io engine/kv engine/mem engine/wal engine/sst engine/lsm'
    [engine/db]='base io engine/kv engine/mem engine/wal engine/sst engine/lsm engine/db engine/varve.h'
    [engine]='' # engine/varve.h: what an embedder reads stands alone
    [proto]='proto'
    [rpc]='base engine/varve.h proto rpc'
    [cli]='base engine/varve.h proto rpc cli'
)

# base/sync.h -> base, engine/kv/entry.h -> engine/kv, proto/varve/v1/x.h -> proto
layer_of() {
    local dir=${1%/*}
    case $dir in
    engine/*/*) dir=${dir#engine/} && layer=engine/${dir%%/*} ;;
    engine | engine/*) layer=$dir ;;
    *) layer=${dir%%/*} ;;
    esac
}

offenders=0 includes=0
offend() {
    printf '%s:%s: includes %s: %s\n' "$file" "$line" "$target" "$1"
    offenders=$((offenders + 1))
}

check() {
    if [[ $target == liburing.h || $target == liburing/* || $target == linux/io_uring.h ]]; then
        [[ $file == io/uring_* ]] || offend "io_uring is for io/uring_* alone"
        return
    fi
    [[ $target != *..* ]] || { offend "write the path from the root of the checkout" && return; }

    # What is in neither place is the system's or generated.
    if [ ! -f "$target" ]; then
        [ -f "${file%/*}/$target" ] || return 0
        target=${file%/*}/$target
    fi
    local layer
    layer_of "$target" && local to=$layer
    layer_of "$file" && local from=$layer
    if [[ $target == *_impl.h && ${target%/*} != "${file%/*}" ]]; then
        offend "an _impl.h is for its own folder alone"
    elif [[ " ${may[$from]:-} " != *" $to "* && " ${may[$from]:-} " != *" $target "* ]]; then
        offend "$from may include only: ${may[$from]:-nothing of ours}"
    fi
}

pattern='^([^:]+):([0-9]+):[[:space:]]*#[[:space:]]*include[[:space:]]*["<]([^">]+)'
while read -r found; do
    [[ $found =~ $pattern ]] || continue
    file=${BASH_REMATCH[1]} line=${BASH_REMATCH[2]} target=${BASH_REMATCH[3]}
    includes=$((includes + 1))
    check
done < <(find base io engine rpc cli proto -name '*.[ch]' -print0 2>/dev/null | sort -z |
    xargs -0 -r grep -nHE '^[[:space:]]*#[[:space:]]*include')

if [ "$includes" -eq 0 ]; then
    echo "layering.sh: no includes below $root" >&2
    exit 2
fi
[ "$offenders" -eq 0 ] || exit 1
echo "$includes includes, none out of line"
