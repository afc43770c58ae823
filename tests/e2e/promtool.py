"""promtool: the machine's own, or Debian's, unpacked once into build/e2e/prometheus (installing it would start a
server)."""

import shutil
import subprocess

import varved

HOME = varved.BUILD / "prometheus"


def find():
    """Where it is; None: it can't be had."""
    if path := shutil.which("promtool"):
        return path
    tool = HOME / "usr/bin/promtool"
    if not tool.exists() and shutil.which("apt-get"):
        fresh = HOME.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        got = subprocess.run(["apt-get", "download", "prometheus"], cwd=fresh, capture_output=True, timeout=300)
        for package in fresh.glob("*.deb") if got.returncode == 0 else ():
            subprocess.run(["dpkg-deb", "-x", package, fresh], check=True, timeout=120)
            package.unlink()
        if (fresh / "usr/bin/promtool").exists():
            (fresh / "usr/bin/prometheus").unlink()
            shutil.rmtree(HOME, ignore_errors=True)
            fresh.rename(HOME)
        else:
            shutil.rmtree(fresh, ignore_errors=True)
    return str(tool) if tool.exists() else None
