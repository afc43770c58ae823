"""grpcurl and ghz, built from source with Go, once, into build/e2e/go."""

import os
import re
import shutil
import subprocess

import varved

GO = varved.BUILD / "go"
TOOLS = {"grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3",
         "ghz": "github.com/bojand/ghz/cmd/ghz@v0.120.0"}
BUILD_S = 900


class NoGo(Exception):
    """There is no Go of 1.21 or newer; the words say what there is."""


def tool(name):
    """Where the tool is, once it has been built."""
    return GO / "bin" / f"{name}-{TOOLS[name].rsplit('@')[1]}"


def build(*names):
    """Build those that are not there yet, of all by default. NoGo, or subprocess.CalledProcessError."""
    missing = [name for name in names or TOOLS if not tool(name).exists()]
    if not missing:
        return
    if not shutil.which("go"):
        raise NoGo("there is no go")
    version = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True).stdout
    if not (found := re.match(r"go1\.(\d+)", version)) or int(found[1]) < 21:
        raise NoGo(f"go is {version.strip()}, at least 1.21 is needed")
    env = {**os.environ, "GOPATH": str(GO / "path"), "GOBIN": str(GO / "bin"), "GOFLAGS": "-modcacherw",
           "GOCACHE": str(GO / "cache"), "GOTOOLCHAIN": "local"}
    for name in missing:
        subprocess.run(["go", "install", TOOLS[name]], env=env, check=True, timeout=BUILD_S)
        os.rename(GO / "bin" / name, tool(name))
    for folder in ("path", "cache"):  # hundreds of megabytes that the tools don't need
        shutil.rmtree(GO / folder, ignore_errors=True)
