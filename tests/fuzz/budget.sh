#!/usr/bin/env bash
#
# budget.sh SECONDS - what CI spends on fuzzing: builds build/fuzz and runs every target for so long. Exit
# code 77 (ctest skips) where there is no clang with libFuzzer.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if ! echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
    clang -x c -fsanitize=fuzzer,address -o /dev/null - 2>/dev/null; then
    echo "no clang with libFuzzer here: nothing is fuzzed"
    exit 77
fi
[ -f build/fuzz/build.ninja ] || cmake --log-level=WARNING --preset fuzz
cmake --build build/fuzz -j 1 | tail -n 1
exec tests/fuzz/fuzz.sh all "$1"
