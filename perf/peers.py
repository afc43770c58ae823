"""
The servers that are measured, each a process for as long as it is needed. etcd and Redis are Debian's packages, unpacked
below build/perf/peers: installing them would start services.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/e2e"))
from varved import BIN, WITH_PARENT, Varved, environment  # noqa: E402 - the server, as the end-to-end tests start it

PLACE = ROOT / "build/perf/peers"
# With what they need beyond a Debian that has Varve's own packages.
PACKAGES = ["etcd-server", "redis-server", "redis-tools", "libhiredis0.14", "liblua5.1-0", "liblzf1", "lua-cjson",
            "lua-bitop"]
READY_S = 60


def fetch():
    """Unpack the peers, once."""
    mark = PLACE / ".complete"
    if mark.exists() and mark.read_text().split() == PACKAGES:
        return
    print("perf: fetching etcd and Redis from Debian, into build/perf/peers", file=sys.stderr)
    shutil.rmtree(PLACE, ignore_errors=True)
    (PLACE / "debs").mkdir(parents=True)
    subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=PLACE / "debs", check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for package in sorted((PLACE / "debs").iterdir()):
        subprocess.run(["dpkg", "-x", package, PLACE], check=True)
    shutil.rmtree(PLACE / "debs")
    mark.write_text(" ".join(PACKAGES))


def peer_environment():
    libraries = next((PLACE / "usr/lib").glob("*-linux-gnu"))
    return {**os.environ, "LD_LIBRARY_PATH": str(libraries), "ETCD_UNSUPPORTED_ARCH": os.uname().machine}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Process:
    """A server process; cpu_us() is its processor time so far."""

    def __init__(self, command, log, env=None, stdin=subprocess.DEVNULL):
        self._log = open(log, "ab")
        self.process = subprocess.Popen([*WITH_PARENT, *map(str, command)], stdin=stdin, stdout=subprocess.PIPE,
                                        stderr=self._log, env=env)

    @property
    def pid(self):
        return self.process.pid

    def await_port(self, port):
        end = time.monotonic() + READY_S
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.process.args[4]} ended with {self.process.returncode}: {self._log.name}")
            try:
                return socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)
        self.process.stdout.close()
        self._log.close()


def cpu_us(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1_000_000 // os.sysconf("SC_CLK_TCK")


class VarveServer:
    store = "varve"

    def __init__(self, place, *flags):
        self._server = Varved(place / "varve", *flags)
        self.address = self._server.address
        self.pid = self._server.process.pid

    def stop(self):
        self._server.stop()


class EmptyServer(Process):
    """Every method answered with an empty message by the gRPC C core: empty_server.c."""
    store = "empty"

    def __init__(self, place):
        super().__init__([BIN / "empty_server", os.cpu_count()], place / "empty.log", stdin=subprocess.PIPE)
        self.address = self.process.stdout.readline().decode().split()[-1]

    def stop(self):
        self.process.stdin.close()
        super().stop()


class Etcd(Process):
    """One member; each write is synced to its log before it is answered, which is etcd's only way."""
    store = "etcd"

    def __init__(self, place):
        client, peer = free_port(), free_port()
        self.address = f"127.0.0.1:{client}"
        super().__init__([PLACE / "usr/bin/etcd", "--data-dir", place / "etcd", "--log-level", "error",
                          "--listen-client-urls", f"http://{self.address}",
                          "--advertise-client-urls", f"http://{self.address}",
                          "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                          "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                          "--initial-cluster", f"default=http://127.0.0.1:{peer}",
                          "--quota-backend-bytes", str(8 << 30)], place / "etcd.log", peer_environment())
        self.await_port(client)


class Redis(Process):
    """appendfsync always: a write is in the synced log when it is answered."""
    store = "redis"
    benchmark = PLACE / "usr/bin/redis-benchmark"

    def __init__(self, place):
        (place / "redis").mkdir()
        self.port = free_port()
        super().__init__([PLACE / "usr/bin/redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir",
                          place / "redis", "--appendonly", "yes", "--appendfsync", "always", "--save", ""],
                         place / "redis.log", peer_environment())
        self.await_port(self.port)
