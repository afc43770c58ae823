#!/usr/bin/env bash
# All figures of perf/README.md: ./dev perf all [--quick] [--again] [PART...]
#
# The server's profiles, the engine beside its peers, then tables and pictures. Each part is tried whatever became of those
# before it; what failed is told of at the end, and the exit code is 1 then. A part that has a result of this commit is
# not measured again unless --again is given: a run that was cut short is gone on with by the same command.
#
# PART: served, or an engine's below; all but `keys`, which takes long, unless some are named.
# --quick: one short round of each into build/perf/results, to see that all of it runs. Nothing is kept, and README.md stays as it is.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${here%/*}

# Workloads that share their data go together, as loading takes longer than a round.
declare -A works=(
    [writes]="PutSequential PutThroughput PutParallel PutThroughputParallel PutBurst PutCallbacks PutPaced DeleteSequential
        PutAsyncThroughput PutAsyncParallel"
    [reads]="GetMemtableHit GetSSTable GetMissing Scan100"
    [mixed]="Mixed ReadWhileWriting ReadPacedWhileWriting"
    [ycsb]="YCSB-A YCSB-B YCSB-C YCSB-D YCSB-E YCSB-F"
    [cold]="GetCold GetColdAsync"
    [fill]="Fill1K Recovery RecoveryBatches"
    [keys]="Keys10M Keys50M")
declare -A flags=([keys]="--rounds 1 --stores varve") # of memory, which hardly differs from round to round
by_default=(served writes reads mixed ycsb cold fill)

out=$here/results quick='' resume=--resume parts=() failed=()
for word in "$@"; do
    case $word in
    --quick) quick=--quick resume='' out=$root/build/perf/results ;;
    --again) resume='' ;;
    *)
        [ "$word" = served ] || [ -n "${works[$word]:-}" ] || {
            echo "perf all takes --quick, --again and names of parts: ${by_default[*]} keys" >&2
            exit 2
        }
        parts+=("$word")
        ;;
    esac
done
[ ${#parts[@]} -gt 0 ] || parts=("${by_default[@]}")
mkdir -p "$out" "$root/build/tmp" "$root/build/perf"
[ -z "$quick" ] || rm -f "$out"/*.json "$out"/*.svg

# A part of the engine. Its result has its name when it is whole; of one that fails, what it has measured is kept beside it.
engine() {
    local name=$1 result=$out/engine-$1.json rest=$out/engine-$1-part.json now=$root/build/perf/engine-$1.json words
    if [ -n "$resume" ] && "$here/run.py" --has "$result"; then
        echo "$name: has a result of this commit"
        return 0
    fi
    rm -f "$now"
    # shellcheck disable=SC2206 # words
    words=(${flags[$name]:-} $quick ${works[$name]})
    if TMPDIR=$root/build/tmp timeout --verbose 2h "$root/build/release/bin/bench_engine" --json "$now" "${words[@]}"; then
        mv "$now" "$result"
        rm -f "$rest"
        return 0
    fi
    [ ! -e "$now" ] || mv "$now" "$rest"
    return 1
}

# Never a part's failure: the others are to be measured.
try() {
    local name=$1 begin=$SECONDS
    shift
    if "$@"; then
        echo "perf: $name took $((SECONDS - begin)) s"
    else
        failed+=("$name")
        echo "perf: $name FAILED after $((SECONDS - begin)) s" >&2
    fi
}

for part in "${parts[@]}"; do
    # shellcheck disable=SC2086 # flags, or none
    if [ "$part" = served ]; then
        try served "$here/run.py" $quick $resume
    else
        try "$part" engine "$part"
    fi
done

if [ -n "$quick" ]; then
    try table "$here/table.py" "$out"
    try plots "$here/plots.py" "$out"/*.json
else
    try plots "$here/plots.py" # before the tables' turn, as README.md shows those that are there
    try table "$here/table.py"
fi
echo "perf: all took $SECONDS s"
[ ${#failed[@]} -eq 0 ] || {
    echo "perf: failed: ${failed[*]}; the same command tries again what has no result" >&2
    exit 1
}
