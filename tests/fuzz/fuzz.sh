#!/usr/bin/env bash
#
# fuzz.sh - runs the fuzz targets of build/fuzz. `./dev fuzz` builds them and calls this.
#
#   fuzz.sh list                    names of the targets
#   fuzz.sh run TARGET SECONDS      fuzz one; findings join build/fuzz/corpus/TARGET, crashes build/fuzz/crashes
#   fuzz.sh all SECONDS             each in turn, for so long
#   fuzz.sh seeds                   generated seeds, merged into the committed corpora
#   fuzz.sh keep [TARGET]           what build/fuzz/corpus covers beyond the committed corpora, added to them
#
# Each run adds a line to build/fuzz/runs.log. Exit codes: 0 done, 1 a crash, whose replay is printed; 2 usage.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=build/fuzz
here=tests/fuzz

# A run takes at most so long; a single allocation, and the process with its sanitizer, at most so many MiB.
limits=(-timeout=10 -malloc_limit_mb=64 -rss_limit_mb=1024 -max_len=32768)
# Freed memory that is watched for use: the default of 256 MiB would be most of the limit.
export ASAN_OPTIONS=quarantine_size_mb=16:detect_leaks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS=suppressions=$PWD/tests/support/lsan.supp:print_suppressions=0

list() {
    local file
    for file in "$here"/fuzz_*.c; do
        file=${file##*/fuzz_}
        echo "${file%.c}"
    done
}

need_target() {
    [ -x "$build/bin/fuzz_$1" ] || {
        echo "fuzz.sh: no target '$1'; there are: $(list | tr '\n' ' ')" >&2
        exit 2
    }
}

figure() {
    sed -n "s/^stat::$1: *//p" "$2" | tail -n 1
}

run() {
    local target=$1 seconds=$2 corpus=$build/corpus/$1 log=$build/$1.log options=("${limits[@]}") code=0 crash
    need_target "$target"
    mkdir -p "$corpus" "$build/crashes" "$here/corpus/$target"
    [ -f "$here/dict/$target.dict" ] && options+=("-dict=$here/dict/$target.dict")
    # Its server has threads that live on from input to input, and beyond the last: it looks for leaks itself when
    # they have ended.
    local asan=$ASAN_OPTIONS
    [ "$target" != rpc_calls ] || { options+=(-detect_leaks=0) && asan+=:leak_check_at_exit=0; }
    ASAN_OPTIONS=$asan "$build/bin/fuzz_$target" "${options[@]}" "-max_total_time=$seconds" -print_final_stats=1 \
        -reload=0 "-artifact_prefix=$build/crashes/$target-" "$corpus" "$here/corpus/$target" >"$log" 2>&1 || code=$?
    local executions coverage
    executions=$(figure number_of_executed_units "$log")
    coverage=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1 | cut -d' ' -f2 || true)
    printf '%s %s seconds=%s executions=%s cov=%s rss_mb=%s exit=%s\n' "$(date -u +%FT%TZ)" "$target" "$seconds" \
        "${executions:-0}" "${coverage:-0}" "$(figure peak_rss_mb "$log")" "$code" | tee -a "$build/runs.log"
    [ "$code" -ne 0 ] || return 0
    crash=$(sed -n 's/^.*Test unit written to //p' "$log" | tail -n 1)
    grep -E 'FUZZ_CHECK|ERROR: |runtime error|SUMMARY' "$log" >&2 || tail -n 20 "$log" >&2
    echo "replay: ./dev fuzz --replay $target ${crash:-(no input; see $log)}" >&2
    return 1
}

all() {
    local target failed=0
    for target in $(list); do
        run "$target" "$1" || failed=1
    done
    return "$failed"
}

# Those inputs of the directories that cover what the committed corpus does not. Edges alone count, not how often each
# was taken, and large inputs are left out: a corpus that every test run replays stays small.
merge() {
    local target=$1 from
    shift
    from=$(mktemp -d "$build/merge.XXXXXX")
    mkdir -p "$here/corpus/$target" "$build/crashes"
    find "$@" -type f -size -"$KEPT_BLOCKS" -exec cp -t "$from" {} +
    "$build/bin/fuzz_$target" "${limits[@]}" "-artifact_prefix=$build/crashes/$target-" -merge=1 -use_counters=0 \
        "$here/corpus/$target" "$from" >"$build/$target-merge.log" 2>&1 ||
        { tail -n 20 "$build/$target-merge.log" >&2 && return 1; }
    rm -rf "$from"
    echo "$target: $(find "$here/corpus/$target" -type f | wc -l) inputs," \
        "$(cat "$here/corpus/$target"/* | wc -c) bytes"
}

case ${1:-} in
list) list ;;
run) run "$2" "$3" ;;
all) all "$2" ;;
replay)
    need_target "$2"
    exec "$build/bin/fuzz_$2" "${limits[@]}" "${@:3}"
    ;;
seeds)
    KEPT_BLOCKS=64k
    rm -rf "$build/seeds" && mkdir -p "$build/seeds"
    "$build/bin/fuzz_seeds" "$build/seeds"
    for target in $(list); do
        [ ! -d "$build/seeds/$target" ] || merge "$target" "$build/seeds/$target"
    done
    ;;
keep)
    KEPT_BLOCKS=9k
    for target in ${2:-$(list)}; do
        [ ! -d "$build/corpus/$target" ] || merge "$target" "$build/corpus/$target"
    done
    ;;
*)
    sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
