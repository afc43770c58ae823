#!/usr/bin/env bash
#
# test_layering.sh - layering.sh finds each kind of offender, and nothing in a tree that keeps the rules.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0

# put FILE [INCLUDE...]: make FILE with these include lines.
put() {
    mkdir -p "$tree/$(dirname "$1")"
    local file=$tree/$1
    shift
    printf '#include %s\n' "$@" >"$file"
}

clean_tree() {
    rm -rf "${tree:?}"/*
    put base/a.h '<stdint.h>'
    put io/io.h '"base/a.h"'
    put io/uring_ring.c '"io/io.h"' '<liburing.h>'
    put engine/varve.h '<stddef.h>'
    put engine/kv/entry.h '"base/a.h"'
    put engine/mem/memtable.h '"engine/kv/entry.h"'
    put engine/mem/skiplist_impl.h '"memtable.h"'
    put engine/mem/skiplist.c '"engine/mem/skiplist_impl.h"'
    put engine/wal/wal.h '"io/io.h"' '"engine/kv/entry.h"'
    put engine/sst/sst.h '"io/io.h"'
    put engine/lsm/flush.c '"engine/mem/memtable.h"' '"engine/sst/sst.h"'
    put engine/db/open.c '"engine/varve.h"' '"engine/lsm/flush.c"' '"engine/wal/wal.h"'
    put rpc/server.h '"engine/varve.h"' '"base/a.h"' '"varve/v1/kv.pb-c.h"'
    put rpc/server.c '"rpc/server.h"' '"server.h"'
    put cli/main.c '"rpc/server.h"' '"engine/varve.h"'
    put tests/engine/test_x.c '"engine/mem/skiplist_impl.h"'
}

refuses() {
    clean_tree
    put "$@"
    if "$here/layering.sh" "$tree" >"$tree/out" 2>&1 || ! grep -q "^$1:1: " "$tree/out"; then
        echo "not refused: $*"
        failures=$((failures + 1))
    fi
}

clean_tree
"$here/layering.sh" "$tree" || { echo "refused a clean tree" && failures=1; }

refuses base/b.c '"io/io.h"'
refuses io/b.c '"engine/kv/entry.h"'
refuses io/b.c '<engine/kv/entry.h>'
refuses io/io_posix.c '<liburing.h>'
refuses engine/kv/b.c '"engine/mem/memtable.h"'
refuses engine/mem/b.c '"engine/wal/wal.h"'
refuses engine/wal/b.c '"engine/sst/sst.h"'
refuses engine/sst/b.c '"engine/mem/memtable.h"'
refuses engine/sst/deeper/b.c '"engine/mem/memtable.h"'
refuses engine/wal/b.c '"engine/lsm/flush.c"'
refuses engine/lsm/b.c '"engine/db/open.c"'
refuses engine/lsm/b.c '"engine/mem/skiplist_impl.h"'
refuses engine/mem/b.c '"engine/varve.h"'
refuses engine/varve.h '"base/a.h"'
refuses rpc/b.c '"engine/kv/entry.h"'
refuses rpc/b.c '"io/io.h"'
refuses rpc/b.c '"cli/main.c"'
refuses rpc/b.c '"../io/io.h"'
refuses cli/b.c '"engine/db/open.c"'
refuses base/b.c '"tests/engine/test_x.c"'
refuses base/b.c '  "io/io.h"'

[ "$failures" -eq 0 ] && echo "all offenders found"
exit "$((failures > 0))"
