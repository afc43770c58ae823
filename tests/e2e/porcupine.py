"""Porcupine (linearizability/main.go), built once below $E2E_DIR where there is Go."""

import os
import re
import shutil
import subprocess
import sys

from conformance import languages
from varved import HERE, WITH_PARENT

SOURCES = [HERE / "linearizability" / name for name in ("main.go", "go.mod", "go.sum")]
CHECK_S = 600


def binary():
    """Where it is; None, and loud words, where it can't be had: linearizable.py has to do then."""
    go = shutil.which("go")
    version = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True).stdout if go else "none"
    found = re.match(r"go1\.(\d+)", version)
    if not found or int(found[1]) < 21:
        print(f"\n*** NOT ASKED: Porcupine; go is {version.strip()}, at least 1.21 is needed. The checker in Python decides "
              "alone.\n", file=sys.stderr, flush=True)
        return None

    def make(place):
        env = {**os.environ, "GOPATH": str(place / "path"), "GOCACHE": str(place / "cache"), "GOTOOLCHAIN": "local",
               "GOFLAGS": "-modcacherw"}
        languages.run("go", "build", "-o", "linearizability", ".", cwd=place, env=env)

    return languages.made("linearizability", SOURCES, make) / "linearizability"


def check(program, pictures, *paths):
    """What it says of each object: {object: (word, path of its picture or None)}."""
    result = subprocess.run([*WITH_PARENT, program, str(pictures), *map(str, paths)], capture_output=True, text=True,
                            timeout=CHECK_S)
    assert result.returncode in (0, 1), result.stderr
    lines = [line.split(" ", 2) for line in result.stdout.splitlines()]
    return {words[0]: (words[1], words[2] if len(words) > 2 else None) for words in lines}
