#!/usr/bin/env python3
"""Set up the clients of the end-to-end tests in build/e2e: what is there already is left alone.

    venv/       Python with grpcio and stubs generated from proto/
    node/       @grpc/grpc-js and @grpc/proto-loader, as package-lock.json pins them

Runs with the system's Python and nothing else. A missing tool is a failure that says what to install:
these tests are never skipped.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROTO = ROOT / "proto"


def fail(words):
    print(f"e2e set-up: {words}", file=sys.stderr)
    sys.exit(1)


def run(command, **kwargs):
    print("e2e set-up:", " ".join(str(word) for word in command), flush=True)
    result = subprocess.run(command, **kwargs)
    if result.returncode != 0:
        fail(f"{command[0]} ended with {result.returncode}")


def digest(paths, *words):
    """Of everything that a set-up is made from; part of its stamp."""
    h = hashlib.sha256()
    for word in words:
        h.update(str(word).encode() + b"\0")
    for path in sorted(paths):
        h.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return h.hexdigest()


def once(place, stamp, make):
    """Make a directory afresh unless it was made from the same things."""
    mark = place / ".made-from"
    if mark.exists() and mark.read_text() == stamp:
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    make(place)
    mark.write_text(stamp)


def make_venv(place):
    try:
        import ensurepip  # noqa: F401 - Debian splits it off into python3-venv
    except ImportError:
        fail("Python has no venv; install python3-venv")
    run([sys.executable, "-m", "venv", place])
    run([place / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
         "-r", HERE / "requirements.txt"])


def make_node(place):
    for tool, package in (("node", "nodejs"), ("npm", "npm")):
        if not shutil.which(tool):
            fail(f"there is no {tool}; install {package}")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, place)
    run(["npm", "ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=place)


def make_stubs(place, python):
    protos = sorted(PROTO.rglob("*.proto"))
    run([python, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--python_out={place}",
         f"--grpc_python_out={place}",
         # google/rpc and grpc/ have packages of their own in Python, whose names stubs here would hide.
         *[p for p in protos if p.is_relative_to(PROTO / "varve")]])


def main():
    base = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build/e2e"
    base.mkdir(parents=True, exist_ok=True)
    lock = open(base / "lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # test runs of two builds may set up at once
    python = base / "venv/bin/python"
    once(base / "venv", digest([HERE / "requirements.txt"], sys.version, base), make_venv)
    once(base / "stubs", digest(PROTO.rglob("*.proto"), HERE.joinpath("requirements.txt").read_text()),
         lambda place: make_stubs(place, python))
    node = shutil.which("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout if node else ""
    once(base / "node", digest([HERE / "package.json", HERE / "package-lock.json"], version), make_node)


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    main()
