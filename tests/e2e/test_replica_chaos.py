"""
Three servers under QUORUM=1: writers and readers at work while servers are killed and stopped, links are cut, silenced and
slowed, and primaries are replaced, in a seeded random order. At the end

  - every write that was acknowledged is there, and everything that any reader has ever seen,
  - all servers have the same entries, LSNs included, by a full scan at one LSN,
  - the conditional writes that all writers make to the same few keys are linearizable: no two of them have followed the
    same value, whatever primaries there were (linearizable.py).

    test_replica_chaos.py [SECONDS]

VARVE_TEST_SEED replays the choices. E2E_FULL=1 makes it ten minutes.
"""

import contextlib
import hashlib
import os
import random
import sys
import threading
import time

import grpc

import linearizable
import varved
from replica import Group
from varve.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 600 if os.environ.get("E2E_FULL") else 30
WRITERS, READERS = 6, 2
KEYS = 100  # in use by a writer at a time
SHARED = ["shared/0", "shared/1", "shared/2", "shared/3"]  # in use by all of them
SHARED_SHARE = 0.2  # of the writes
CALL_S = 3
PROMOTE_S = 60
SETTLE_S = 120
ENOUGH = 100  # writes, for a run to say anything; on a slow machine it lasts until it has them
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50),
           ("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_retries", 0),
           ("grpc.max_receive_message_length", -1)]
FLAGS = ["--QUORUM=1", "--QUORUM_TIMEOUT=5s", "--REPLICATION_TIMEOUT=1s", "--REPLICATION_HEARTBEAT=100ms",
         "--MEMTABLE_SIZE=1MiB", "--WAL_SEGMENT_SIZE=1MiB", "--WAL_RETENTION_MAX=8MiB", "--DRAIN_TIMEOUT=2s",
         "--SLOW_CALL_THRESHOLD=0us"]


class Channels:
    """To servers by address, made when they are first asked for. Of one thread."""

    def __init__(self):
        self._channels = {}

    def __getitem__(self, address):
        if address not in self._channels:
            self._channels[address] = grpc.insecure_channel(address, OPTIONS)
        return self._channels[address]

    def close(self):
        for channel in self._channels.values():
            channel.close()


class Key:
    """What a writer knows of one key. Operation n is a put of n, or a delete."""

    def __init__(self, name):
        self.name = name
        self.tried = self.acked = 0
        self.seen = 0  # by readers, at any server
        self.deletes = set()

    def complaint(self, value):
        least = max(self.acked, self.seen)
        if value is None:
            if least == 0 or any(least <= n <= self.tried for n in self.deletes):
                return None
            return f"{self.name}: not there, but {self.acked} was acknowledged and {self.seen} seen"
        number = int(value.split(b" ", 1)[0])
        if least <= number <= self.tried and number not in self.deletes:
            return None
        return f"{self.name}: {number}, of {self.tried} tried; {self.acked} was acknowledged and {self.seen} seen"


class Load:
    """Writers that turn to whoever is primary, and readers of all servers."""

    def __init__(self, group, seed):
        self.group = group
        self.seed = seed
        self.over = threading.Event()
        self.keys = {}
        self.lock = threading.Lock()  # of seen, and of the counts
        self.acked = self.unknown = self.read = self.follow_ons = 0
        self.primary = None  # its name
        self.history = []  # of the shared keys
        self.failures = []
        self.threads = [threading.Thread(target=self._guarded, args=(self._write, i)) for i in range(WRITERS)]
        self.threads += [threading.Thread(target=self._guarded, args=(self._read, i)) for i in range(READERS)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join()
        assert not self.failures, self.failures

    def _guarded(self, fn, number):
        channels = Channels()
        try:
            fn(number, channels)
        except Exception as e:  # whatever it is, the test has failed
            self.failures.append(repr(e))
        finally:
            channels.close()

    def _address(self):
        node = self.group.nodes.get(self.primary)
        return node.address if node else None

    def _write(self, number, channels):
        rng = random.Random(f"{self.seed} writer {number}")
        fresh = 0
        own, primary = [], None
        while not self.over.is_set():
            if primary != self.primary:
                # What the last one acknowledged stays as it was, so that nothing that is lost is written anew.
                own, primary = [], self.primary
            while len(own) < KEYS:
                own.append(Key(f"{number}/{fresh}"))
                self.keys[own[-1].name] = own[-1]
                fresh += 1
            address = self._address()
            if not address:
                self.over.wait(0.02)
                continue
            kv = kv_pb2_grpc.KVStub(channels[address])
            if rng.random() < SHARED_SHARE:
                self._follow_on(kv, number, rng)
                continue
            key = rng.choice(own)
            key.tried += 1
            try:
                if rng.random() < 0.1:
                    key.deletes.add(key.tried)
                    kv.Delete(kv_pb2.DeleteRequest(key=key.name.encode()), timeout=CALL_S)
                else:
                    value = b"%d " % key.tried + b"." * rng.randint(0, 400)
                    kv.Put(kv_pb2.PutRequest(key=key.name.encode(), value=value), timeout=CALL_S)
                key.acked = key.tried
                with self.lock:
                    self.acked += 1
            except grpc.RpcError as e:
                # It may still come to be: nothing more is written to this key, so that the order stays known.
                own.remove(key)
                with self.lock:
                    self.unknown += 1
                if e.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION):
                    self.over.wait(0.02)

    def _follow_on(self, kv, number, rng):
        """A write to a shared key, if that still has the value that was just read. The read is of no account: a primary that does
        not know yet that there is a newer one may answer it. But the write only a primary with a quorum."""
        key = rng.choice(SHARED)
        with self.lock:
            self.follow_ons += 1
            word = f"{number}.{self.follow_ons}"
        try:
            found = kv.Get(kv_pb2.GetRequest(key=key.encode()), timeout=CALL_S)
            request = kv_pb2.WriteRequest(ops=[kv_pb2.Op(put=kv_pb2.PutOp(key=key.encode(), value=word.encode()))])
            if found.found:
                request.conditions.add(key=key.encode(), value_equals=found.value)
            else:
                request.conditions.add(key=key.encode(), absent=True)
            op = {"object": key, "client": number, "kind": "follow on", "call": time.monotonic_ns(), "return": None,
                  "is": {key: found.value.decode() if found.found else None}, "set": {key: word}}
        except grpc.RpcError:
            self.over.wait(0.02)
            return
        try:
            result = kv.Write(request, timeout=CALL_S)
            if not result.applied:
                return
            op.update({"return": time.monotonic_ns(), "lsn": result.lsn})
            with self.lock:
                self.acked += 1
        except grpc.RpcError:
            self.over.wait(0.02)
        self.history.append(op)

    def _read(self, number, channels):
        rng = random.Random(f"{self.seed} reader {number}")
        while not self.over.is_set():
            address = rng.choice(list(self.group.nodes.values())).address
            names = list(self.keys)[-WRITERS * KEYS * 2:]
            if not address or not names:
                self.over.wait(0.02)
                continue
            key = self.keys[rng.choice(names)]
            try:
                found = kv_pb2_grpc.KVStub(channels[address]).Get(kv_pb2.GetRequest(key=key.name.encode()),
                                                                  timeout=CALL_S)
            except grpc.RpcError:
                self.over.wait(0.01)
                continue
            with self.lock:
                self.read += 1
                if found.found:
                    key.seen = max(key.seen, int(found.value.split(b" ", 1)[0]))


class Chaos:
    def __init__(self, group, rng):
        self.group, self.rng = group, rng
        self.channels = Channels()
        self.start = time.monotonic()
        self.primary = "a"
        self.counts = {}

    def say(self, words):
        print(f"{time.monotonic() - self.start:6.1f} s  {words}", flush=True)

    def pause(self, least, most):
        """How long a fault lasts: what happens meanwhile is the test."""
        time.sleep(self.rng.uniform(least, most))

    def status(self, name):
        node = self.group[name]
        if not node.runs:
            return None
        try:
            return admin_pb2_grpc.AdminStub(self.channels[node.address]).Status(admin_pb2.StatusRequest(), timeout=2)
        except grpc.RpcError:
            return None

    def await_following(self, names):
        for name in names:
            varved.until(lambda: self.follows(name), f"{name} follows {self.primary}", SETTLE_S)

    def follows(self, name):
        status = self.status(name)
        return status and status.role == "follower" and status.connected

    def followers(self):
        return [name for name in self.group.nodes if name != self.primary]

    # ---- faults ----

    def kill_follower(self):
        name = self.rng.choice(self.followers())
        self.say(f"kill -9 {name}, a follower")
        self.group[name].kill()
        self.pause(0, 3)
        self.group[name].start()

    def stop_follower(self):
        name = self.rng.choice(self.followers())
        self.say(f"SIGSTOP {name}, a follower")
        self.group[name].pause()
        self.pause(0.2, 4)
        self.group[name].resume()

    def both_followers(self):
        self.say("kill -9 both followers")
        for name in self.followers():
            self.group[name].kill()
        self.pause(0, 2)
        for name in self.followers():
            self.group[name].start()

    def bad_link(self):
        name = self.rng.choice(self.followers())
        link = self.group.link(name, self.primary)
        kind = self.rng.choice(["cut", "silence", "delay", "cut_after", "cut_after", "cut_after"])
        self.say(f"link of {name} to {self.primary}: {kind}")
        if kind == "delay":
            link.delay(self.rng.uniform(0.01, 0.15))
            self.pause(1, 3)
        elif kind == "cut_after":
            for _ in range(self.rng.randint(1, 10)):
                link.cut_after(self.rng.choice([self.rng.randint(1, 200), self.rng.randint(1, 200000)]))
                self.pause(0, 0.5)
        else:
            getattr(link, kind)()
            self.pause(0.2, 4)
        link.heal()

    def restart_primary(self):
        name = self.primary
        self.say(f"kill -9 {name}, the primary, and start it again")
        self.group[name].kill()
        self.pause(0, 1)
        self.group[name].start()

    def failover(self):
        """The primary is gone in some way; a follower takes over; the old one comes back."""
        old = self.primary
        how = self.rng.choice(["kill", "pause", "links"])
        self.say(f"failover: {old} is lost by {how}")
        if how == "kill":
            self.group[old].kill()
        elif how == "pause":
            self.group[old].pause()
        else:
            for name in self.group.nodes:
                if name != old:
                    self.group.link(name, old).cut()
                    self.group.link(old, name).cut()
        self.pause(0, 1)
        candidates = self.followers()
        self.rng.shuffle(candidates)
        self.primary = varved.until(lambda: self.promote_any(candidates), "one of them is promoted", SETTLE_S)
        self.load.primary = self.primary
        self.say(f"failover: {self.primary} is the primary")
        self.pause(0, 3)
        self.group.heal()
        self.group[old].resume()
        if not self.group[old].server:
            self.group[old].start()
        self.await_following(self.followers())
        self.say(f"failover: {old} follows")

    def switchover(self):
        """All is well, and a follower is to take over: it does so at the first word, and its primary follows it."""
        old, new = self.primary, self.rng.choice(self.followers())
        before = self.load.acked
        begun = time.monotonic()
        epoch = varved.until(lambda: self.hand_over(new), f"{old} hands over to {new}", SETTLE_S)
        self.primary = self.load.primary = new
        took = time.monotonic() - begun
        varved.until(lambda: self.load.acked > before or self.load.failures, "writes go on", SETTLE_S)
        self.say(f"switchover: {new} has epoch {epoch}, after {took * 1000:.0f} ms")
        self.await_following(self.followers())
        self.say(f"switchover: {old} follows")

    def hand_over(self, new):
        """The epoch. None: all was not well, the new one had lost its primary meanwhile, as on a machine that starves it."""
        lost = self.losses(new)
        self.await_following(self.followers())
        # One that has come back just now may still be too far behind to be let in.
        varved.until(lambda: self.is_near(new), f"{new} is near", SETTLE_S)
        try:
            return admin_pb2_grpc.AdminStub(self.channels[self.group[new].address]).Promote(
                admin_pb2.PromoteRequest(), timeout=PROMOTE_S).epoch
        except grpc.RpcError as e:
            words = f"{e.code().name}: {e.details()}"
            assert e.code() == grpc.StatusCode.FAILED_PRECONDITION and self.losses(new) > lost, \
                f"all was well, but {new} does not take over: {words}"
            self.say(f"switchover: {new} has lost {self.primary}, and is refused: {words}")
            return None

    def is_near(self, name):
        status = self.status(name)
        return status and (not status.lag_lsn or status.lag_ms < 1000)

    def losses(self, name):
        """So often it has lost its primary, by its own log."""
        return self.group[name].server.stderr().count('msg="lost ')

    def promote_any(self, names):
        for name in names:
            if not self.group[name].runs:
                continue
            try:
                admin = admin_pb2_grpc.AdminStub(self.channels[self.group[name].address])
                epoch = admin.Promote(admin_pb2.PromoteRequest(), timeout=PROMOTE_S).epoch
                self.say(f"failover: {name} has epoch {epoch}")
                return name
            except grpc.RpcError as e:
                self.say(f"failover: {name}: {e.code().name}: {e.details()}")
        return None

    def run(self, load):
        self.load = load
        faults = [self.kill_follower, self.stop_follower, self.both_followers, self.bad_link, self.bad_link,
                  self.restart_primary, self.failover, self.failover, self.switchover]
        end = time.monotonic() + SECONDS
        # Each at least once, however short the run.
        for fault in [self.switchover, self.failover, self.bad_link]:
            self.do(fault)
        while time.monotonic() < end or self.load.acked <= ENOUGH:
            self.do(self.rng.choice(faults))

    def do(self, fault):
        before = self.load.acked
        fault()
        self.counts[fault.__name__] = self.counts.get(fault.__name__, 0) + 1
        varved.until(lambda: self.load.acked > before or self.load.failures,
                     "writes are acknowledged again", SETTLE_S)

    # ---- the end ----

    def settle(self):
        self.group.heal()
        for node in self.group.nodes.values():
            node.resume()
            if not node.server:
                node.start()
        self.await_following(self.followers())
        lsn = varved.until(self.quiet, "everything is confirmed", SETTLE_S)
        for name in self.followers():
            varved.until(lambda: (self.status(name) or admin_pb2.StatusResponse()).last_lsn >= lsn,
                         f"{name} has LSN {lsn}", SETTLE_S)
        return lsn

    def quiet(self):
        """The LSN up to which everything that there is has been committed."""
        status = self.status(self.primary)
        return status and status.serving and status.last_lsn == status.durable_lsn and status.last_lsn

    def scan(self, name, lsn):
        """Every entry of a server, and a checksum of all that they say."""
        entries, digest = {}, hashlib.sha256()
        kv = kv_pb2_grpc.KVStub(self.channels[self.group[name].address])
        for message in kv.Scan(kv_pb2.ScanRequest(min_lsn=lsn), timeout=120):
            for entry in message.entries:
                entries[entry.key] = entry.value
                digest.update(b"%d %d %d " % (len(entry.key), len(entry.value), entry.lsn) + entry.key + entry.value)
        return entries, digest.hexdigest()


def main():
    seed = varved.seed()
    work = varved.work_dir("chaos")
    with Group(work, ["a", "b", "c"], *FLAGS) as group, contextlib.ExitStack() as stack:
        chaos = Chaos(group, random.Random(f"{seed} faults"))
        stack.callback(chaos.channels.close)
        group["a"].start()
        for name in chaos.followers():
            group[name].start("--follow", group.link(name, "a").address)
        chaos.await_following(chaos.followers())
        load = Load(group, seed)
        stack.callback(load.over.set)
        load.primary = "a"
        chaos.run(load)
        load.stop()
        lsn = chaos.settle()
        chaos.say(f"LSN {lsn}; {load.acked} writes acknowledged, {load.unknown} not known, {load.read} reads; "
                  f"faults: {chaos.counts}")
        scans = {name: chaos.scan(name, lsn) for name in group.nodes}
        digests = {name: digest for name, (_, digest) in scans.items()}
        assert len(set(digests.values())) == 1, f"the servers differ: {digests}"
        assert lsn >= load.acked, f"{load.acked} writes were acknowledged, but the LSN is {lsn}"
        entries = scans[chaos.primary][0]
        complaints = [c for key in load.keys.values() if (c := key.complaint(entries.get(key.name.encode())))]
        assert not complaints, f"{len(complaints)} keys are wrong: {'; '.join(complaints[:10])}"
        now = time.monotonic_ns()
        for key in SHARED:
            value = entries.pop(key.encode(), None)
            load.history.append({"object": key, "client": -1, "kind": "end", "call": now, "return": now,
                                 "is": {key: value and value.decode()}})
        complaints = linearizable.check(load.history)[0] + linearizable.lsn_complaints(load.history)
        assert not complaints, "\n".join(complaints[:10])
        chaos.say(f"{sum(op['return'] is not None for op in load.history)} conditional writes to {len(SHARED)} keys are linearizable")
        unknown = set(entries) - {name.encode() for name in load.keys}
        assert not unknown, f"keys that nobody wrote: {list(unknown)[:5]}"
        chaos.say(f"all {len(entries)} entries are the same on all servers, and every acknowledged write is there")
        for name in [*chaos.followers(), chaos.primary]:
            code = group[name].stop()
            assert code == 0, f"{name} ended with {code}"


if __name__ == "__main__":
    main()
