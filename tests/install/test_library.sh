#!/usr/bin/env bash
#
# test_library.sh BUILD_DIR - installs into a prefix of its own and uses the library as an embedder does: the
# example of varve.h in C99 and in C++, through pkg-config (shared and static) and through CMake.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$1
work=$build/install-test
prefix=$work/usr
rm -rf "$work"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
cd "$work"

fail() {
    echo "FAILED: $*"
    exit 1
}

cmake --install "$build" --prefix "$prefix" >install.log || fail "cmake --install: $(cat install.log)"
libdir=$(dirname "$(find "$prefix" -name libvarve.so)")
export PKG_CONFIG_PATH=$libdir/pkgconfig LD_LIBRARY_PATH=$libdir

echo "== only varve_* is exported"
strangers=$(nm -D --defined-only "$libdir/libvarve.so" | awk '$2 != "A" {print $3}' | grep -v '^varve_' || true)
[ -z "$strangers" ] || fail "libvarve.so exports $strangers"
undeclared=$(nm -D --defined-only "$libdir/libvarve.so" | awk '$2 != "A" {sub("@.*", "", $3); print $3}' |
    while read -r name; do grep -qw "$name" "$prefix/include/varve.h" || echo "$name"; done)
[ -z "$undeclared" ] || fail "exported but not in varve.h: $undeclared"

# The example in the header's first comment.
sed -n '/^ \*     #include <varve.h>/,/^ \*     }/s/^ \*     //p' "$prefix/include/varve.h" >example.c
grep -q varve_put example.c || fail "no example in varve.h"
cp example.c example.cpp

# run PROGRAM: it makes a database, and opens what it made.
run() {
    rm -rf data
    "$1" || fail "$1 on a new directory"
    "$1" || fail "$1 on its own directory"
    [ -n "$(ls data)" ] || fail "$1 left no data"
}

echo "== C99, pkg-config"
# shellcheck disable=SC2046 # the words of pkg-config are words
gcc -std=c99 -pedantic -Wall -Wextra -Werror example.c $(pkg-config --cflags --libs varve) -o example_c
run ./example_c

echo "== C++11, pkg-config"
# shellcheck disable=SC2046
g++ -std=c++11 -pedantic -Wall -Wextra -Werror example.cpp $(pkg-config --cflags --libs varve) -o example_cpp
run ./example_cpp

echo "== examples/c"
mkdir c
cp "$root"/examples/c/{Makefile,example.c} c
make -s -C c
./c/example c/data >c/said || fail "examples/c ended with $?"
diff "$root/examples/expected.txt" c/said || fail "examples/c did not print what examples/expected.txt has"

echo "== static, pkg-config"
# shellcheck disable=SC2046
gcc example.c $(pkg-config --static --cflags --libs varve | sed 's/-lvarve/-l:libvarve.a/') -o example_static
(unset LD_LIBRARY_PATH && run ./example_static)

echo "== CMake package, after the whole was moved"
mv "$prefix" "$work/moved"
export LD_LIBRARY_PATH=${libdir/#"$prefix"/"$work/moved"}
cat >CMakeLists.txt <<'EOF'
cmake_minimum_required(VERSION 3.13)
project(embedder C)
find_package(Varve 0.1 REQUIRED)
add_executable(with_shared example.c)
target_link_libraries(with_shared Varve::varve)
add_executable(with_static example.c)
target_link_libraries(with_static Varve::varve_static)
EOF
cmake -S . -B out -G Ninja -DCMAKE_PREFIX_PATH="$work/moved" >cmake.log && cmake --build out >>cmake.log ||
    fail "CMake: $(cat cmake.log)"
run out/with_shared
run out/with_static

echo "the installed library works"
