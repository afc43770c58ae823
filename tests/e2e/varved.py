"""The server under test: started on a port of its own choice, awaited, killed, stopped. Bounded everywhere."""

import atexit
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = Path(os.environ.get("E2E_DIR", ROOT / "build/e2e"))
BIN = Path(os.environ.get("E2E_BIN", ROOT / "build/release/bin"))
VARVED = BIN / "varved"
VARVE = BIN / "varve"

# What the server is built with, if anything.
SANITIZED = bool(os.environ.get("E2E_SANITIZE"))

# What an instrumented build on a busy machine may take; waiting ends with the event, not with the bound.
READY_S = 120
EXIT_S = 120

# Of the log of each server that a failed test has: little, so that a report that is cut keeps the reason.
LOG_LINES, LOG_CHARS = 25, 300

sys.path.insert(0, str(BUILD / "stubs"))


def _say_reason(kind, value, trace):
    """As ever, and then in one line, the last of all, why the test has failed."""
    sys.stdout.flush()
    sys.__excepthook__(kind, value, trace)
    words = f"{value.code().name}: {value.details()}" if hasattr(value, "details") else " ".join(str(value).split())
    print(f"FAILED: {kind.__name__}: {words[:600]}", file=sys.stderr, flush=True)


sys.excepthook = _say_reason


def seed():
    """Of the random choices: $VARVE_TEST_SEED, else fresh; printed so that a failure can be replayed."""
    given = os.environ.get("VARVE_TEST_SEED")
    value = int(given, 0) if given else random.SystemRandom().getrandbits(32)
    print(f"VARVE_TEST_SEED={value}", flush=True)
    return value


def run_dir():
    path = BUILD / "run"
    path.mkdir(parents=True, exist_ok=True)
    return path


def work_dir(name):
    """A directory of the test's own below build/, gone when the test is ($E2E_KEEP keeps it)."""
    path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=run_dir()))
    if not os.environ.get("E2E_KEEP"):
        atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def until(condition, what, seconds=60):
    """Wait for a condition, with a bound; its (true) value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds} s still not: {what}")
        time.sleep(0.005)


def environment(more=None):
    """Without what configures a server (VARVE_*), except for what the caller gives."""
    return {**{key: value for key, value in os.environ.items() if not key.startswith("VARVE_")}, **(more or {})}


# The words before a command that make it end with this process. (Not a preexec_fn: that forks Python, and what
# gRPC does in a forked child before the exec can fail.)
WITH_PARENT = ["setpriv", "--pdeathsig", "KILL", "--"]


class StartRefused(Exception):
    """The server ended before it was ready."""

    def __init__(self, code, stderr):
        super().__init__(f"varved ended with {code} before it was ready:\n{stderr}")
        self.code = code
        self.stderr = stderr


class Varved:
    """One run of varved. Use as a context manager: what still runs at its end is killed; an instrumented one is
    stopped, so that its leaks are told."""

    def __init__(self, data, *flags, listen=("127.0.0.1:0",), env=None, wait=True):
        self.command = [str(VARVED), "--data", str(data),
                        *[word for address in listen for word in ("--listen", address)], *map(str, flags)]
        self.addresses = []
        log = tempfile.NamedTemporaryFile(prefix="varved-", suffix=".log", dir=run_dir(), delete=False)
        self._log = Path(log.name)
        atexit.register(self._log.unlink, missing_ok=True)
        self._lines = queue.SimpleQueue()
        with log:
            self.process = subprocess.Popen([*WITH_PARENT, *self.command], stdout=subprocess.PIPE, stderr=log,
                                            stdin=subprocess.DEVNULL, env=environment(env))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if wait:
            self.await_ready(len(listen))

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line.decode(errors="replace").rstrip("\n"))
        self._lines.put(None)

    def await_ready(self, count=1):
        while len(self.addresses) < count:
            try:
                line = self._lines.get(timeout=READY_S)
            except queue.Empty:
                self.kill()
                raise AssertionError(f"varved is not ready after {READY_S} s:\n{self.stderr()}") from None
            if line is None:
                raise StartRefused(self.wait(), self.stderr())
            if line.startswith("listening on "):
                self.addresses.append(line.removeprefix("listening on "))
        return self

    @property
    def address(self):
        return self.addresses[0]

    def stderr(self):
        return self._log.read_text(errors="replace")

    def wait(self):
        """Its exit code; what a sanitizer said fails the test."""
        code = self.process.wait(timeout=EXIT_S)
        self._reader.join()
        self.process.stdout.close()
        words = self.stderr()
        assert "Sanitizer" not in words and ": runtime error: " not in words, words
        return code

    def kill(self):
        """SIGKILL, and until it is gone."""
        self.process.kill()
        return self.wait()

    def stop(self):
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        code = self.process.poll()
        if code is None and SANITIZED and kind is None:
            self.process.send_signal(signal.SIGCONT)  # should the test have stopped it
            self.stop()  # a process that is killed has no leaks
        elif code is None:
            self.kill()
        else:
            self.wait()
        if kind is not None:
            state = "running" if code is None else f"ended with {code}"
            lines = [line[:LOG_CHARS] for line in self.stderr().splitlines()[-LOG_LINES:]]
            print("\n".join([f"---- {state}; the end of stderr of {' '.join(self.command)[:LOG_CHARS]}", *lines, "----"]),
                  file=sys.stderr, flush=True)


def sockets(server):
    """How many a server has open; its files come and go with compactions."""
    count = 0
    for fd in (Path("/proc") / str(server.process.pid) / "fd").iterdir():
        try:
            count += os.readlink(fd).startswith("socket:")
        except FileNotFoundError:
            pass  # closed meanwhile
    return count


def refused(data, *flags, **kwargs):
    """Start a server that must not come up; what it says (exit code, stderr)."""
    try:
        with Varved(data, *flags, **kwargs) as server:
            raise AssertionError(f"it serves on {server.addresses}: {' '.join(server.command)}")
    except StartRefused as e:
        return e.code, e.stderr
