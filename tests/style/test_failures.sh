#!/usr/bin/env bash
#
# test_failures.sh - failures.py finds the words of what failed, and says not more than forty lines.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

die() {
    printf '%s\n--- it said:\n%s\n' "$1" "$said"
    exit 1
}

run() {
    ctest --test-dir . >ctest.out 2>&1 && exit 1
    said=$("$here/failures.py" .)
    [ "$(wc -l <<<"$said")" -le 40 ] || die "more than forty lines"
}

cat >criterion.sh <<'SH'
seq 1 3000
echo '[----] tests/rpc/test_x.c:91: Assertion Failed'
echo '[----] '
echo '[----]   the value is 3, not 4'
echo '[FAIL] x::y: (0.01s)'
echo '[====] Synthesis: Tested: 6 | Passing: 5 | Failing: 1 | Crashing: 0'
exit 1
SH
cat >CTestTestfile.cmake <<'CMAKE'
add_test(a/good /bin/echo "FAILED: not so")
add_test(a/criterion /bin/sh criterion.sh)
add_test(a/python python3 -c "print('begun'); assert False, 'two and two'")
add_test(a/quiet /bin/sh -c "echo first; echo last; exit 3")
add_test(a/absent /no/such/program)
CMAKE
run
for words in '4 failed' 'test_x.c:91: Assertion Failed' 'the value is 3, not 4' 'AssertionError: two and two' \
    '    last' 'a/absent: did not run'; do
    grep -qF -- "$words" <<<"$said" || die "not said: $words"
done
if grep -qE 'not so|Synthesis|^ +2999' <<<"$said"; then
    die "says too much"
fi

for i in $(seq 50); do echo "add_test(many/$i /bin/sh criterion.sh)"; done >CTestTestfile.cmake
run
grep -qF 'and many/' <<<"$said" || die "does not name the rest"
