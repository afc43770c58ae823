"""
Does a server that is killed, stopped, drained, started again, on a disk that gets full, read-only or loses its power, look
to its clients like one that does one thing at a time? Every call is written down with its times (history_client.py), and
the history of each object (a few keys that are read and written together) must be linearizable (linearizable.py; Porcupine
is asked as well where there is Go). Batches, scans and snapshots over an object's keys are single steps of it, so one that is split is found.

    test_linearizability.py [SECONDS]

Rounds of two kinds take turns. In a durable one an acknowledged write must survive whatever happens. In an asynchronous one
a crash may take back the end of what was acknowledged, and nothing else: what comes back must be the state as of some
LSN, not below any that was acknowledged as durable; between two crashes the history is to be linearizable again.

VARVE_TEST_SEED replays the choices. E2E_FULL=1 makes it ten minutes.
"""

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import grpc
from grpc_status import rpc_status

import linearizable
import porcupine
import small_disk
import varved
from history_client import KEYS, OPTIONS, reason_of, word_of
from replica import Link
from varved import HERE, WITH_PARENT, StartRefused, Varved, until
from varve.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 600 if os.environ.get("E2E_FULL") else 0
PROCESSES, CLIENTS, OBJECTS = 2, 7, 30
# A stopped server must outlast it. Instrumented ones need longer for a call.
CALL_S = 5.0 if os.environ.get("E2E_SANITIZE") else 1.0
FAULTS = 8  # of a durable round beyond the shortest run
SETTLE_S = 120
PROBE_S = 60
FLAGS = ["--MEMTABLE_SIZE=1MiB", "--WAL_SEGMENT_SIZE=1MiB", "--MAX_IMMUTABLE_COUNT=2", "--DRAIN_TIMEOUT=2s",
         "--SLOW_CALL_THRESHOLD=0us", "--CACHE_CAPACITY=1MiB"]
SETTINGS = [[], ["--IO_BACKEND=posix"], ["--MEMTABLE_TYPE=hashmap"], ["--MEMTABLE_TYPE=btree", "--COMPACTION_STYLE=leveled"],
            ["--MEMTABLE_SIZE=4MiB"]]


class Refusal(Exception):
    def __init__(self, error):
        status = rpc_status.from_call(error)
        self.code, self.reason = error.code().name, reason_of(status) if status else ""
        super().__init__(f"{self.code} {self.reason}: {error.details()}")


class Probe:
    """The test's own calls, outside of the history."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address, OPTIONS)
        self.kv = kv_pb2_grpc.KVStub(self.channel)
        self.admin = admin_pb2_grpc.AdminStub(self.channel)

    def _call(self, method, request):
        try:
            return method(request, timeout=PROBE_S)
        except grpc.RpcError as e:
            raise Refusal(e) from None

    def put(self, key=b"probe", value=b"v"):
        return self._call(self.kv.Put, kv_pb2.PutRequest(key=key, value=value))

    def delete(self, key=b"probe"):
        return self._call(self.kv.Delete, kv_pb2.DeleteRequest(key=key))

    def get(self, key=b"probe"):
        return self._call(self.kv.Get, kv_pb2.GetRequest(key=key))

    def status(self):
        return self._call(self.admin.Status, admin_pb2.StatusRequest())

    def refusal(self, *args, **kwargs):
        """Of a put: (code, reason), or None."""
        try:
            self.put(*args, **kwargs)
        except Refusal as e:
            return e.code, e.reason
        return None

    def scan(self, prefix):
        """{object: {key: (word, LSN)}}"""
        found = collections.defaultdict(dict)
        try:
            for message in self.kv.Scan(kv_pb2.ScanRequest(prefix=prefix), timeout=PROBE_S):
                for entry in message.entries:
                    name, key = entry.key.decode().rsplit("/", 1)
                    found[name][key] = (word_of(entry.value), entry.lsn)
        except grpc.RpcError as e:
            raise Refusal(e) from None
        return found


class Clients:
    """The processes of one round."""

    def __init__(self, work, name, seed, **settings):
        self.files, self.processes = [], []
        for number in range(PROCESSES):
            self.files.append(work / f"{name}-{number}.history")
            words = json.dumps({"round": name, "number": number, "seed": str(seed), "clients": CLIENTS, "objects": OBJECTS,
                                "call_s": CALL_S, **settings})
            self.processes.append(subprocess.Popen(
                [*WITH_PARENT, sys.executable, HERE / "history_client.py", self.files[-1], words], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True, env={**os.environ, "E2E_DIR": str(varved.BUILD), "GRPC_VERBOSITY": "NONE"}))

    def say(self, words):
        for process in self.processes:
            assert process.poll() is None, f"a client has ended with {process.returncode}"
            process.stdin.write(words + "\n")
            process.stdin.flush()

    def await_begun(self):
        """Until each has had an answer."""
        for process in self.processes:
            line = process.stdout.readline()
            assert line == "begun\n", f"a client says {line!r}"

    def stop(self):
        """The history, and what was counted."""
        self.say("stop")
        counts = collections.Counter()
        for process in self.processes:
            out = process.communicate(timeout=SETTLE_S)[0]
            assert process.returncode == 0, f"a client ended with {process.returncode}"
            counts.update(json.loads(out))
        return linearizable.load(self.files), counts

    def __enter__(self):
        return self

    def __exit__(self, *rest):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


class Round:
    """A server, its clients, and what happens to them."""

    def __init__(self, test, name, asynchronous):
        self.test, self.name, self.rng, self.disk = test, name, test.rng, test.disk
        self.asynchronous = asynchronous
        self.server = self.probe = self.clients = None
        self.flags = ["--WAL_SYNC_INTERVAL=1s"] if asynchronous else []
        self.links = []  # between the clients and each server: a call that was made to one never gets to the next
        self.faults = collections.Counter()
        self.begun = []  # when the clients were told of each server
        self.recovered = []  # what each had then: (objects, last LSN)
        self.reads = []  # the same as operations
        self.least = []  # the LSN that each said was durable before it was killed; None: it ended by itself, and takes nothing back

    def say(self, words):
        print(f"{time.monotonic() - self.test.start:6.1f} s  {self.name}: {words}", flush=True)

    def start(self):
        """A server on what is there, ready to serve; then the clients hear of it."""
        self.server = self.test.stack(Varved(self.test.data, *FLAGS, *self.rng.choice(SETTINGS), *self.flags))
        self.probe = Probe(self.server.address)
        last_lsn = self.probe.status().last_lsn
        found, reads = self.read_all()
        self.recovered.append((found, last_lsn))
        self.reads += reads
        self.begun.append(time.monotonic_ns())
        address = self.server.address
        self.links.append(Link(lambda: address))
        self.clients.say(f"address {self.links[-1].address}")

    def end(self, how="kill", code=0):
        """Of the server."""
        if self.asynchronous:
            self.least.append(self.probe.status().durable_lsn if how == "kill" else None)
        self.probe.channel.close()
        if how == "kill":
            self.server.kill()
        else:
            found = self.server.stop()
            assert found == code, f"SIGTERM ended it with {found}:\n{self.server.stderr()}"
        self.links[-1].cut()  # its port stays taken

    def pause(self, least, most):
        """What happens meanwhile is the test."""
        time.sleep(self.rng.uniform(least, most))

    # ---- faults ----

    def kill(self):
        self.end()
        self.pause(0, 0.3)
        self.start()

    def unheard(self):
        """What the server has got is done, and its answers are lost: with the connections, mostly with the server as well."""
        link = self.links[-1]
        link.silence()
        self.pause(0.05, 0.3)
        restart = self.rng.random() < 0.7
        if restart:
            self.end()
            self.start()
        else:
            link.heal()

    def kill_recovering(self):
        self.end()
        for _ in range(self.rng.randint(1, 3)):
            server = Varved(self.test.data, *FLAGS, wait=False)
            time.sleep(self.rng.random() * 0.15)  # the moment is what is random
            server.kill()
        self.start()

    def stop(self):
        """For longer than any client waits."""
        os.kill(self.server.process.pid, signal.SIGSTOP)
        time.sleep(CALL_S * self.rng.uniform(1.1, 1.6))
        os.kill(self.server.process.pid, signal.SIGCONT)

    def drain(self):
        self.end("drain")
        self.start()

    def full(self):
        """Puts are refused with NO_SPACE, and only puts. After half of them a server is to start on a full disk: it does, or says that
        it needs room."""
        self.probe.put(b"probe/old")
        self.probe.put(b"probe/gone")
        self.disk.fill(self.rng.choice([0, 100_000, 1_000_000, 3_000_000]))
        refusal = until(lambda: self.probe.refusal(value=b"." * 100_000), "a full disk refuses puts", SETTLE_S)
        assert refusal == ("RESOURCE_EXHAUSTED", "NO_SPACE"), refusal
        assert self.probe.get(b"probe/old").found
        try:
            self.probe.delete(b"probe/gone")
            gone = True
        except Refusal as e:  # the log itself has found no room
            assert e.reason == "NO_SPACE", e
            gone = False
        self.pause(0.2, 0.5)
        if self.rng.random() < 0.5:
            self.say("full: and kill -9")
            self.end()
            try:
                self.start()
            except StartRefused as e:
                assert e.code == 1 and "no space left on device" in e.stderr.lower(), e
                self.faults["start refused on a full disk"] += 1
                self.disk.free()
                self.start()
            assert self.probe.get(b"probe/old").found and self.probe.get(b"probe/gone").found != gone
        self.disk.free()
        until(lambda: not self.probe.refusal(), "a disk with room again takes puts", SETTLE_S)

    def _failed_log(self):
        """Of a disk that fails: writes are refused, reads go on."""
        refusal = until(self.probe.refusal, "a broken disk takes no puts", SETTLE_S)
        assert refusal == ("UNAVAILABLE", "WAL_FAILED"), refusal
        assert self.probe.get(b"probe/old").found and self.probe.status().wal_failed
        self.pause(0.1, 0.4)
        assert self.probe.refusal() == ("UNAVAILABLE", "WAL_FAILED"), "a failed log stays failed"

    def read_only(self):
        self.probe.put(b"probe/old")
        self.disk.make_read_only()
        self._failed_log()
        if self.rng.random() < 0.5:
            self.end()
        else:
            self.end("drain", code=1)  # it could not sync all, and says so
        try:
            with Varved(self.test.data, *FLAGS):
                raise AssertionError("it has started on a read-only disk")
        except StartRefused as e:
            assert e.code == 1 and "ead-only file system" in e.stderr, e
        self.disk.repair()
        self.start()

    def power(self):
        self.probe.put(b"probe/old")
        self.disk.lose_power()
        if not self.asynchronous and self.rng.random() < 0.5:
            self._failed_log()
        self.end()
        self.disk.repair()
        self.start()

    # ---- the whole ----

    def run(self, faults):
        share = 0.99 if self.asynchronous else 0.0  # a synchronous one makes all before it durable
        with Clients(self.test.work, self.name, self.test.seed, async_share=share,
                     named_share=0.0 if self.asynchronous else 0.5) as self.clients:
            self.start()
            self.clients.await_begun()
            self.pause(0.2, 0.5)
            for fault in faults:
                self.say(fault)
                getattr(self, fault)()
                self.faults[fault] += 1
                until(lambda: not self.probe.refusal(), "puts are acknowledged again", SETTLE_S)
                self.pause(0.3, 1.0)
            history, counts = self.clients.stop()
        self.say(f"{len(history)} operations, {sum(op['return'] is None for op in history)} of them open")
        self.say(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
        assert sum(op["return"] is not None for op in history) > 20, "too little was done to test anything"
        found, last = self.read_all()
        self.test.final[self.name] = {name: dict(keys) for name, keys in found.items()}
        complaints = self.eras(history, last) if self.asynchronous else self.durable([*history, *self.reads, *last])
        self.probe.channel.close()
        for link in self.links:
            link.close()
        assert self.server.stop() == 0
        if complaints:
            self.say("FAILED")
            raise AssertionError("\n".join([f"{len(complaints)} complaints:", *complaints[:10]]))
        return len(history)

    def read_all(self):
        """What is there, and the same as reads of all keys of each object."""
        call = time.monotonic_ns()
        found = self.probe.scan(self.name.encode() + b"/")
        end = time.monotonic_ns()
        return found, [self.state(f"{self.name}/{n}", found, call, end, "is") for n in range(OBJECTS)]

    def state(self, name, found, call, end, part):
        keys = found.get(name, {})
        op = {"object": name, "client": 999_999, "kind": "test", "call": call, "return": end,
              part: {key.decode(): keys.get(key.decode(), (None, 0))[0] for key in KEYS}}
        if part == "is":
            op["seen"] = {key: lsn for key, (_, lsn) in keys.items()}
        return op

    def judge_order(self, history):
        begun = time.monotonic()
        complaints, count = linearizable.check(history)
        took = time.monotonic() - begun
        path = self.test.work / f"{self.name}.history"
        linearizable.save(path, linearizable.reduced(history))
        self.test.objects += count
        if self.test.porcupine:
            pictures = varved.run_dir()
            said = porcupine.check(self.test.porcupine, pictures, path)
            bad = {name: picture for name, (word, picture) in said.items() if word != "Ok"}
            assert len(said) == count and len(bad) == len(complaints), f"Porcupine says {bad} of {len(said)}, not {complaints}"
            complaints += [f"{name}: see {picture}" for name, picture in bad.items()]
        if complaints:
            kept = varved.run_dir() / f"linearizability-{self.test.seed}-{self.name}.history"
            shutil.copy(path, kept)
            complaints.append(f"the history is in {kept}")
        else:
            self.say(f"{count} histories are linearizable ({took:.1f} s)")
        return complaints

    def durable(self, history):
        """From the beginning to the end, as if nothing had happened to the server."""
        return self.judge_order(history) + linearizable.lsn_complaints(history)

    def eras(self, history, last):
        """Each from one start of the server to the next begins with what came back."""
        complaints, all_, lost = [], [], 0
        for n, begun in enumerate(self.begun):
            end = self.begun[n + 1] if n + 1 < len(self.begun) else None
            era = [op for op in history if begun <= op["call"] and (end is None or op["call"] < end)]
            objects, _ = self.recovered[n]
            if end:
                found, last_lsn = self.recovered[n + 1]
                acked = [op["lsn"] for op in era if op.get("lsn")]
                durable = acked if self.least[n] is None else [self.least[n]]
                durable = [*durable, 0, *(op["lsn"] for op in era if op.get("lsn") and op["sync"])]
                before = [{"object": name, "kind": "recovered", "call": 0, "return": 0, "client": 0, "set": {key: word},
                           "lsn": lsn} for name, keys in objects.items() for key, (word, lsn) in keys.items()]
                complaints += linearizable.prefix_complaints(before + era, found, last_lsn, max(durable))
                lost += sum(lsn > last_lsn for lsn in acked)
            else:
                era += last
            complaints += linearizable.lsn_complaints(era)
            era = [self.state(f"{self.name}/{o}", objects, begun - 1, begun - 1, "set") for o in range(OBJECTS)] + era
            all_ += [{**op, "object": f"{op['object']}@{n}"} for op in era]
        self.say(f"{len(self.begun) - 1} crashes and stops have taken back {lost} asynchronous writes")
        self.test.taken_back += lost
        return self.judge_order(all_) + complaints


class Test:
    DURABLE = ["kill", "kill_recovering", "unheard", "stop", "drain", "unheard"]
    ASYNC = ["kill", "kill_recovering", "unheard", "drain"]
    DISK = {"ext4": (["full", "read_only", "power"], ["power", "power"]), "tmpfs": (["full"], []), None: ([], [])}

    def __init__(self, seed):
        self.seed, self.rng = seed, random.Random(seed)
        self.start = time.monotonic()
        self.work = varved.work_dir("linearizability")
        self.servers = []
        self.final = {}
        self.operations = self.objects = self.taken_back = 0
        self.faults = collections.Counter()
        self.porcupine = porcupine.binary()

    def stack(self, server):
        self.servers.append(server)
        return server

    def run(self):
        with small_disk.SmallDisk(self.work) as self.disk:
            self.data = self.disk.path / "data"
            durable, asynchronous = self.DISK[self.disk.kind]
            if self.disk.kind != "ext4":
                print(f"\n*** NOT TESTED: a disk that is {'' if self.disk.kind else 'full, '}read-only or loses its power: "
                      f"{self.disk.why}\n", file=sys.stderr, flush=True)
            durable, asynchronous = self.DURABLE + durable, self.ASYNC + asynchronous
            failed = True
            try:
                self.rounds(durable, asynchronous)
                self.at_last()
                failed = False
            finally:
                for server in self.servers:
                    server.__exit__(Exception if failed and server is self.servers[-1] else None)

    def rounds(self, durable, asynchronous):
        number = 0
        while True:
            for faults, is_async in ((durable, False), (asynchronous, True)):
                number += 1
                # The first time all of them, however long it takes.
                some = self.rng.sample(faults, len(faults)) if number <= 2 else self.rng.choices(faults, k=FAULTS)
                round_ = Round(self, f"r{number}", is_async)
                self.operations += round_.run(some)
                self.faults.update(round_.faults)
            if time.monotonic() - self.start >= SECONDS:
                return

    def at_last(self):
        """Everything of all rounds is still as they left it."""
        server = self.stack(Varved(self.data, *FLAGS))
        probe = Probe(server.address)
        count = 0
        for name, objects in self.final.items():
            found = {o: dict(keys) for o, keys in probe.scan(name.encode() + b"/").items()}
            assert found == objects, f"{name} was {objects} and is {found}"
            count += sum(map(len, objects.values()))
        probe.channel.close()
        assert server.stop() == 0
        print(f"{time.monotonic() - self.start:6.1f} s  {self.operations} operations in {self.objects} histories, "
              f"{sum(self.faults.values())} faults ({dict(self.faults)}), {self.taken_back} asynchronous writes taken back; "
              f"{count} entries are as the rounds left them", flush=True)


if __name__ == "__main__":
    small_disk.enter()
    Test(varved.seed()).run()
