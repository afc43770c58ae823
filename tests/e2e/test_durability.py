"""
Nothing acknowledged is lost: a client that is not ours loads a real tree, writes on, the server is killed with
SIGKILL in the middle, and both clients hold what the restarted server has against the book that was kept.

    test_durability.py python|node

VARVE_TEST_SEED replays the choices; E2E_FULL=1 loads both trees whole and does more rounds. Otherwise it is a part
of the tree, chosen at random: each file is read seven times, by one client or the other.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import time

import model as book
import tree
import varved
from varved import HERE, WITH_PARENT, Varved

WORKERS = {"python": [sys.executable, str(HERE / "kv_client.py")], "node": ["node", str(HERE / "kv_client.mjs")]}
TREES = {"python": "/usr/include", "node": "/usr/share/doc"}
FULL = bool(os.environ.get("E2E_FULL"))
ROUNDS = 12 if FULL else 4
FILES_MAX = None if FULL else 2500
WORKER_S = 600

# Later starts of the same directory with other sizes: what one wrote the next must read, and small memtables
# make flushes and new log segments part of what is interrupted.
SETTINGS = [[], ["--MEMTABLE_SIZE=4MiB"], ["--IO_BACKEND=posix"], ["--MEMTABLE_SIZE=4MiB", "--IO_BACKEND=posix"]]


class Worker:
    """A client process; its book is the model file."""

    def __init__(self, client, action, address, model, *rest):
        self.name = f"{client} {action}"
        env = {**os.environ, "E2E_DIR": str(varved.BUILD)}
        self.process = subprocess.Popen([*WITH_PARENT, *WORKERS[client], action, address, str(model), *map(str, rest)],
                                        stdout=subprocess.PIPE, text=True, env=env)
        self.last = ""

    def until_acked(self, target):
        """Read its progress until so many writes are acknowledged."""
        for line in self.process.stdout:
            if line.startswith("acked ") and int(line.split()[1]) >= target:
                return
        raise AssertionError(f"{self.name} ended with {self.process.wait()} before {target} were acknowledged")

    def finish(self):
        rest = self.process.communicate(timeout=WORKER_S)[0].splitlines()
        self.last = rest[-1] if rest else ""
        return self.process.returncode


def verify(client, address, model):
    worker = Worker(client, "verify", address, model)
    code = worker.finish()
    assert code == 0, f"{worker.name} ended with {code}: {worker.last}"
    return json.loads(worker.last)["keys"]


def say(start, words):
    print(f"{time.monotonic() - start:6.1f} s  {words}", flush=True)


def main(client):
    start = time.monotonic()
    seed = varved.seed()
    rng = random.Random(seed)
    other = next(name for name in WORKERS if name != client)
    work = varved.work_dir(f"durability-{client}")
    data, model, listing = work / "data", work / "model.json", work / "files"

    paths = tree.files(*TREES.values()) if FULL else tree.files(TREES[client])
    if FILES_MAX and len(paths) > FILES_MAX:
        paths = sorted(rng.sample(paths, FILES_MAX))
    big = tree.biggest("/usr/lib", 2)
    paths += big
    total = sum(map(os.path.getsize, paths))
    assert len(paths) > 100 and os.path.getsize(big[0]) > tree.BIG_BYTES, "this machine has no real tree"
    listing.write_bytes(b"".join(path + b"\0" for path in paths))
    book.save(model, {"keys": {}, "unknown": []})
    say(start, f"{len(paths)} files, {total >> 20} MiB, the biggest of {os.path.getsize(big[0]) >> 20} MiB")

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Varved(data))
        worker = Worker(client, "load", server.address, model, rng.getrandbits(32), listing)
        assert worker.finish() == 0, f"{worker.name} failed"
        say(start, f"loaded by {client}, a tenth deleted; {worker.last}")
        keys = verify(other, server.address, model)
        say(start, f"{keys} keys verified by {other}")

        for number in range(1, ROUNDS + 1):
            target = rng.randint(100, 1500)
            worker = Worker(client, "churn", server.address, model, rng.getrandbits(32), listing)
            worker.until_acked(target)
            server.kill()
            assert worker.finish() == 0, f"{worker.name} failed"
            unknown = len(book.load(model)["unknown"])
            settings = rng.choice(SETTINGS)
            say(start, f"round {number}: killed once {target} were acknowledged, {unknown} in flight; "
                       f"then {' '.join(settings) or 'defaults'}")
            assert unknown > 0, "nothing was in flight: the kill came too late to test anything"
            if number % 2 == 0:
                interrupt_recovery(data, settings, rng)
            server = stack.enter_context(Varved(data, *settings))
            keys = verify(client if number < ROUNDS else other, server.address, model)
            say(start, f"round {number}: {keys} keys verified, recovered with {' '.join(settings) or 'defaults'}")

        code = server.stop()
        assert code == 0, f"SIGTERM ended it with {code}:\n{server.stderr()}"
    with Varved(data) as server:
        verify(client, server.address, model)
        say(start, "and once more after a clean stop")
        assert server.stop() == 0


def interrupt_recovery(data, settings, rng):
    """Kill a server while it starts. The moment is what is random here; nothing is waited for by sleeping."""
    server = Varved(data, *settings, wait=False)
    time.sleep(rng.random() * 0.2)
    server.kill()


if __name__ == "__main__":
    main(sys.argv[1])
