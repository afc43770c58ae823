#!/usr/bin/env bash
#
# test_packages.sh - the packages in a Debian 12 of their own: installed, started by systemd, upgraded beside data and an
# edited configuration, removed and purged. What it needs and a machine may lack (root, debootstrap, systemd-nspawn, a
# mirror) is said, and the test is skipped.
#
# The fresh Debian is kept as build/debian12.tar; everything else goes when the test ends.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
base=$root/build/debian12.tar
work=$root/build/packages-test
os=$work/root
nspawn=

skip() {
    echo "SKIPPED: $*"
    exit 77
}

fail() {
    echo "FAILED: $*"
    [ ! -f "$work/boot.log" ] || tail -30 "$work/boot.log"
    exit 1
}

leave() {
    if [ -n "$nspawn" ]; then
        kill -TERM "$nspawn" 2>/dev/null || true
        for _ in $(seq 100); do
            kill -0 "$nspawn" 2>/dev/null || break
            read -rt 0.1 <> <(:) || true
        done
        kill -KILL "$nspawn" 2>/dev/null || true
        wait "$nspawn" 2>/dev/null || true
    fi
    ! mountpoint -q "$os/proc" || umount "$os/proc"
    rm -rf "$work"
}

# until SECONDS COMMAND...: wait for it to succeed.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        read -rt 0.2 <> <(:) || true
    done
}

[ "$(id -u)" -eq 0 ] || skip "only root can make a Debian to try the packages in"
for tool in debootstrap systemd-nspawn dpkg-deb; do
    command -v "$tool" >/dev/null || skip "there is no $tool"
done

echo "== packages"
"$root/dev" package >/dev/null || fail "./dev package"
trap leave EXIT
rm -rf "$work"
mkdir -p "$os" "$work/next"
version=$(dpkg-deb -f "$root"/build/packages/varved_*.deb Version)
(cd "$root/build/release" && cpack -D CPACK_DEBIAN_PACKAGE_RELEASE=2 -B "$work/next" >"$work/cpack.log" 2>&1) ||
    fail "cpack: $(tail -5 "$work/cpack.log")"
next=${version%-1}-2

echo "== Debian 12"
if [ ! -f "$base" ]; then
    debootstrap --variant=minbase --include=systemd,systemd-sysv bookworm "$os" >"$work/debootstrap.log" 2>&1 ||
        skip "no Debian to try the packages in: $(tail -1 "$work/debootstrap.log")"
    tar --one-file-system -C "$os" -cf "$base.new" . && mv "$base.new" "$base"
else
    tar -C "$os" -xpf "$base"
fi
apt-config dump | grep -E '^Acquire::(Check|https?::)' >"$os/etc/apt/apt.conf.d/99host" || true
cp /etc/resolv.conf "$os/etc/resolv.conf" 2>/dev/null || true
mount -t proc proc "$os/proc"

inside() {
    DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 chroot "$os" "$@"
}

# All paths, but those that are nobody's.
paths() {
    (cd "$os" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./run -o -path ./tmp -o -path ./dev -o \
        -path ./var/log -o -path ./var/cache -o -path ./var/lib/apt -o -path ./var/lib/dpkg -o -path ./root \) -prune -o -print) | sort
}

echo "== install"
mkdir "$os/debs"
cp "$root"/build/packages/*.deb "$work"/next/varved_*.deb "$work"/next/varve-tools_*.deb "$os/debs"
inside apt-get -qq update >"$work/apt.log" 2>&1 || skip "no mirror for apt: $(tail -1 "$work/apt.log")"
# What they depend on stays; only what they bring is to go with a purge.
mapfile -t needed < <(for deb in "$os"/debs/*_"$version"_*.deb; do dpkg-deb -f "$deb" Depends; done |
    tr ',' '\n' | sed 's/^ *//; s/ .*//' | grep -v '^libvarve' | sort -u)
inside apt-get -qq install -y --no-install-recommends "${needed[@]}" >"$work/apt.log" 2>&1 ||
    fail "what the packages depend on: $(tail -5 "$work/apt.log")"
paths >"$work/before"
inside sh -c "dpkg -i /debs/*_${version}_*.deb" >"$work/dpkg.log" 2>&1 || fail "dpkg -i: $(tail -5 "$work/dpkg.log")"
[ "$(stat -c '%U %a' "$os/var/lib/varve" 2>/dev/null)" != "" ] || fail "there is no /var/lib/varve"
[ "$(inside stat -c '%U:%G %a' /var/lib/varve)" = "varve:varve 700" ] || fail "/var/lib/varve: $(inside stat -c '%U:%G %a' /var/lib/varve)"
[ -L "$os/etc/systemd/system/multi-user.target.wants/varved.service" ] || fail "varved.service is not enabled"
[[ $(inside ldconfig -p) == *libvarve.so.* ]] || fail "the loader does not know libvarve"
grep -q "^DATA = /var/lib/varve" "$os/etc/varve/varved.conf" || fail "the configuration has no DATA"
for file in usr/share/man/man1/varve.1.gz usr/share/man/man8/varved.8.gz usr/include/varve.h \
    usr/share/bash-completion/completions/varve usr/share/doc/varved/copyright; do
    [ -s "$os/$file" ] || fail "there is no /$file"
done

echo "== start"
umount "$os/proc"
systemd-nspawn --quiet --register=no --keep-unit --private-network --directory "$os" \
    --system-call-filter="io_uring_setup io_uring_enter io_uring_register" --boot </dev/null >"$work/boot.log" 2>&1 &
nspawn=$!
until_true 30 pgrep -P "$nspawn" || fail "the container does not start"
leader=$(pgrep -P "$nspawn" | head -1)

# booted COMMAND...: in the running container.
booted() {
    DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 nsenter --target "$leader" --all -- "$@"
}

until_true 60 booted systemctl is-active varved || fail "varved: $(booted systemctl status varved --no-pager 2>&1 | tail -15)"
until_true 30 booted varve health || fail "no health: $(booted varve health 2>&1)"
booted varve put greeting hello
[ "$(booted varve get greeting)" = hello ] || fail "get"
backend=$(booted varve status | sed -n 's/^io_backend //p')
echo "   io_backend $backend, $(booted systemd-analyze security varved --no-pager 2>/dev/null | tail -1 | sed 's/^[^A-Za-z]*//')"
[ "$backend" = uring ] || [ "$backend" = "$("$root/build/release/bin/varve" --data "$work/probe" put a b &&
    "$root/build/release/bin/varve" --data "$work/probe" stats | sed -n 's/^io_backend //p')" ] ||
    fail "the unit keeps varved from io_uring"
[ "$(booted ps -o user= -C varved 2>/dev/null || booted stat -c %U "/proc/$(booted systemctl show -p MainPID --value varved)")" = varve ] ||
    fail "varved does not run as varve"
booted systemctl reload varved || fail "reload: $(booted journalctl -u varved --no-pager | tail -5)"
[ "$(booted varve get greeting)" = hello ] || fail "get after a reload"

echo "== upgrade"
pid=$(booted systemctl show -p MainPID --value varved)
booted sh -c 'echo "LOG_LEVEL = debug # edited" >>/etc/varve/varved.conf'
booted sh -c "dpkg -i /debs/*_${next}_*.deb" >"$work/dpkg.log" 2>&1 || fail "upgrade: $(tail -5 "$work/dpkg.log")"
until_true 60 booted varve health || fail "no health after the upgrade"
[ "$(booted dpkg-query -W -f '${Version}' varved)" = "$next" ] || fail "it is not the next version"
[ "$(booted systemctl show -p MainPID --value varved)" != "$pid" ] || fail "the upgrade did not start it anew"
[ "$(booted varve get greeting)" = hello ] || fail "get after the upgrade"
grep -q "# edited" "$os/etc/varve/varved.conf" || fail "the upgrade took the edited configuration"

echo "== a configuration that is wrong"
booted sh -c 'echo "MEMTABLE_SIZE = 1" >>/etc/varve/varved.conf'
booted systemctl restart varved 2>/dev/null || true
until_true 30 booted systemctl is-failed varved || fail "it runs with nonsense"
booted journalctl -u varved --no-pager >"$work/journal"
grep -q 'varved.conf:[0-9]*: MEMTABLE_SIZE = 1: allowed is' "$work/journal" || fail "the journal does not say why: $(tail -5 "$work/journal")"
booted sed -i '/^MEMTABLE_SIZE = 1$/d' /etc/varve/varved.conf
booted systemctl reset-failed varved
booted systemctl start varved 2>/dev/null ||
    fail "no start with the configuration mended: $(booted journalctl -u varved --no-pager | tail -15)"
until_true 60 booted varve health || fail "no health with the configuration mended"

echo "== remove and purge"
booted dpkg -r varved >"$work/dpkg.log" 2>&1 || fail "remove: $(tail -5 "$work/dpkg.log")"
! booted systemctl is-active --quiet varved || fail "it runs on when it is removed"
[ -f "$os/var/lib/varve/MANIFEST" ] && [ -f "$os/etc/varve/varved.conf" ] || fail "removing took data or configuration"
booted dpkg -P varved >"$work/dpkg.log" 2>&1 || fail "purge: $(tail -5 "$work/dpkg.log")"
grep -q "the data in /var/lib/varve is kept" "$work/dpkg.log" || fail "purge says nothing of the data"
[ -f "$os/var/lib/varve/MANIFEST" ] || fail "purge took data"
booted dpkg -i "/debs/varved_${next}_amd64.deb" >"$work/dpkg.log" 2>&1 || fail "install again: $(tail -5 "$work/dpkg.log")"
until_true 60 booted varve health || fail "no health with the data of before"
[ "$(booted varve get greeting)" = hello ] || fail "get with the data of before"
booted systemctl stop varved
booted sh -c 'rm -rf /var/lib/varve/*'
booted dpkg -P varved varve-tools libvarve-dev "$(basename "$(find "$os/debs" -name 'libvarve[0-9]*')" | sed 's/_.*//')" >"$work/dpkg.log" 2>&1 ||
    fail "purge: $(tail -5 "$work/dpkg.log")"
paths | grep -i varve | grep -v '^\./debs' | comm -13 "$work/before" - >"$work/left" || true
[ ! -s "$work/left" ] || fail "left behind: $(cat "$work/left")"
! booted getent passwd varve >/dev/null || fail "the user varve is left behind"
echo "done"
