"""
A follower and its primary, as real processes: bootstrap of an empty directory, following over restarts of either side,
a log that was trimmed, promotion, and the old primary that comes back with writes that nobody else has.

    test_follow.py [NAME...]     the scenarios whose names contain one of these

VARVE_TEST_SEED replays the choices. E2E_FULL=1 makes everything larger.
"""

import contextlib
import hashlib
import os
import random
import subprocess
import sys
import threading
import time

import grpc
from google.rpc import error_details_pb2, status_pb2

import varved
from replica import Group
from varve.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc

FULL = bool(os.environ.get("E2E_FULL"))
CALL_S = 20
SETTLE_S = 60
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50),
           ("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_retries", 0)]
FLAGS = ["--REPLICATION_TIMEOUT=1s", "--REPLICATION_HEARTBEAT=100ms", "--MEMTABLE_SIZE=1MiB", "--WAL_SEGMENT_SIZE=1MiB",
         "--DRAIN_TIMEOUT=2s", "--SLOW_CALL_THRESHOLD=0us"]


class Client:
    """Of one node, wherever it is now."""

    def __init__(self, node):
        self.node = node
        self._channels = {}

    @property
    def channel(self):
        address = self.node.address
        if address not in self._channels:
            self._channels[address] = grpc.insecure_channel(address, OPTIONS)
        return self._channels[address]

    @property
    def kv(self):
        return kv_pb2_grpc.KVStub(self.channel)

    @property
    def admin(self):
        return admin_pb2_grpc.AdminStub(self.channel)

    def put(self, key, value):
        """Its LSN. A server that stops to start again is waited for."""
        return patiently(lambda: self.kv.Put(kv_pb2.PutRequest(key=key, value=value), timeout=CALL_S)).lsn

    def delete(self, key):
        return self.kv.Delete(kv_pb2.DeleteRequest(key=key), timeout=CALL_S).lsn

    def get(self, key, min_lsn=0):
        """The value, None without one, of a state that has all up to min_lsn."""
        r = patiently(lambda: self.kv.Get(kv_pb2.GetRequest(key=key, min_lsn=min_lsn), timeout=CALL_S))
        return r.value if r.found else None

    def scan(self, min_lsn=0):
        """All entries with their LSNs."""
        def read():
            chunks = self.kv.Scan(kv_pb2.ScanRequest(min_lsn=min_lsn), timeout=CALL_S)
            return [(e.key, e.value, e.lsn) for chunk in chunks for e in chunk.entries]
        return patiently(read)

    def status(self):
        try:
            return self.admin.Status(admin_pb2.StatusRequest(), timeout=CALL_S)
        except grpc.RpcError:
            return admin_pb2.StatusResponse()

    def flush(self):
        self.admin.Flush(admin_pb2.FlushRequest(), timeout=CALL_S)

    def promote(self, force=False):
        return self.admin.Promote(admin_pb2.PromoteRequest(force=force), timeout=CALL_S).epoch

    def expect_role(self, role):
        """As soon as it answers."""
        told = varved.until(lambda: self.status().role, f"{self.node.name} says what it is", SETTLE_S)
        assert told == role, f"{self.node.name} is a {told}, and no {role}"

    def await_following(self):
        return varved.until(lambda: (s := self.status()).role == "follower" and s.connected and s,
                            f"{self.node.name} follows", SETTLE_S)

    def close(self):
        for channel in self._channels.values():
            channel.close()


def patiently(call):
    """A server may be about to start again, or may not show yet what it has."""
    end = time.monotonic() + SETTLE_S
    while True:
        try:
            return call()
        except grpc.RpcError as e:
            passing = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            if e.code() not in passing or time.monotonic() > end:
                raise
            time.sleep(0.02)


def reason(error):
    """Of an RpcError: ErrorInfo's reason and metadata."""
    packed = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    for detail in status_pb2.Status.FromString(packed).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return "", {}


def refusal(call):
    try:
        call()
    except grpc.RpcError as e:
        return e.code(), *reason(e)
    raise AssertionError("it was not refused")


class Pair:
    """Two nodes, a and b, and what they are known to hold."""

    def __init__(self, name, *flags):
        self.work = varved.work_dir(f"follow-{name}")
        self.group = Group(self.work, ["a", "b"], *FLAGS, *flags)
        self.a, self.b = self.group["a"], self.group["b"]
        self.ca, self.cb = Client(self.a), Client(self.b)
        self.random = random.Random(f"{SEED} {name}")

    def follow(self, node, other, **kwargs):
        return node.start("--follow", self.group.link(node.name, other.name).address, **kwargs)

    def fill(self, client, count, prefix=b"k", size=100):
        """Puts and deletes; the last LSN."""
        lsn = 0
        for i in range(count):
            key = prefix + b"%d" % self.random.randrange(count)
            if self.random.random() < 0.1:
                lsn = client.delete(key)
            else:
                lsn = client.put(key, b"%d " % i + self.random.randbytes(self.random.randrange(size)))
        return lsn

    def expect_equal(self, lsn):
        ours, theirs = self.ca.scan(lsn), self.cb.scan(lsn)
        assert ours == theirs, f"{len(ours)} entries at a, {len(theirs)} at b: {sorted(set(ours) ^ set(theirs))[:4]}"
        return len(ours)

    def log(self, node):
        return node.server.stderr()

    def __enter__(self):
        self.group.__enter__()
        return self

    def __exit__(self, *error):
        self.ca.close(), self.cb.close()
        self.group.__exit__(*error)


class Writer:
    """Puts prefix0, prefix1, ... until one isn't acknowledged."""

    def __init__(self, client, prefix):
        self.client, self.prefix, self.acked = client, prefix, 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        with contextlib.suppress(grpc.RpcError):
            while True:
                self.client.kv.Put(kv_pb2.PutRequest(key=b"%s%d" % (self.prefix, self.acked), value=b"v"), timeout=CALL_S)
                self.acked += 1

    def join(self):
        self.thread.join()
        return self.acked


# ---- scenarios ----


def bootstrap_and_read_your_writes():
    with Pair("bootstrap") as p:
        p.a.start()
        p.fill(p.ca, 300)
        p.ca.flush()
        lsn = p.fill(p.ca, 200)
        p.follow(p.b, p.a)
        p.cb.await_following()
        assert p.expect_equal(lsn) > 50
        assert p.ca.scan(), "there is something to compare"
        for i in range(50):
            lsn = p.ca.put(b"own", b"%d" % i)
            assert p.cb.get(b"own", min_lsn=lsn) == b"%d" % i
        code, why, words = refusal(lambda: p.cb.kv.Put(kv_pb2.PutRequest(key=b"x", value=b"y"), timeout=CALL_S))
        primary = p.group.link("b", "a").address
        assert (code, why) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_PRIMARY"), (code, why)
        assert words == {"primary": primary}, words
        code, _, _ = refusal(lambda: p.cb.kv.Get(kv_pb2.GetRequest(key=b"own", min_lsn=lsn + 1), timeout=0.3))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED, code
        status = varved.until(lambda: (s := p.cb.status()).lag_lsn == 0 and s, "b is not behind")
        assert status.primary == primary.encode() and status.applied_lsn == lsn and status.lag_ms == 0, status
        replica = varved.until(lambda: [r for r in p.ca.status().replicas if r.confirmed_lsn == lsn and r.connected],
                               "b has confirmed")
        assert [r.slot for r in replica] == [b"b"]
        assert not (p.b.data / "bootstrap").exists(), "nothing is left of the bootstrap"


def restarts_of_either_side():
    with Pair("restarts") as p:
        p.a.start()
        p.fill(p.ca, 100)
        p.follow(p.b, p.a)
        p.cb.await_following()
        for round_number in range(20 if FULL else 4):
            node, how = [(p.b, "stop"), (p.a, "kill"), (p.b, "kill"), (p.a, "stop")][round_number % 4]
            print(f"  {how} {node.name}", flush=True)
            if how == "kill":
                node.kill()
            else:
                assert node.stop() == 0
            if node is p.b:
                p.fill(p.ca, 50)
            node.start()
            lsn = p.fill(p.ca, 50)
            p.cb.await_following()
            p.expect_equal(lsn)


def a_link_that_is_cut_at_any_byte():
    with Pair("cuts") as p:
        p.a.start()
        p.follow(p.b, p.a)
        p.cb.await_following()
        link = p.group.link("b", "a")
        for _ in range(200 if FULL else 25):
            link.cut_after(p.random.choice([p.random.randint(1, 400), p.random.randint(1, 20000)]))
            lsn = p.fill(p.ca, 10, size=3000)
        link.heal()
        p.expect_equal(lsn)
        for how in (link.silence, link.cut):
            how()
            lsn = p.fill(p.ca, 5)
            varved.until(lambda: not p.cb.status().connected, "b notices")
            link.heal()
            assert p.cb.get(b"k", min_lsn=lsn) is None


def a_trimmed_log_means_a_new_copy():
    with Pair("trimmed", "--WAL_RETENTION_MAX=1MiB") as p:
        p.a.start()
        p.fill(p.ca, 50)
        p.follow(p.b, p.a)
        p.cb.await_following()
        assert p.b.stop() == 0
        for i in range(40):
            p.ca.put(b"large%d" % i, p.random.randbytes(200000))
        p.ca.flush()
        lsn = p.ca.put(b"last", b"")
        varved.until(lambda: all(r.lost for r in p.ca.status().replicas), "b's slot is lost")
        p.b.start()
        p.expect_equal(lsn)
        varved.until(lambda: "trimmed" in p.log(p.b), "b says why")
        lsn = p.fill(p.ca, 30)
        p.cb.await_following()
        p.expect_equal(lsn)
        assert not list(p.b.data.glob("diverged-*")), "nothing of its own was there to be kept"
        assert p.b.stop() == 0
        p.b.start()
        p.expect_equal(p.fill(p.ca, 10))


def promote_and_come_back(with_flag, in_tables):
    """The old primary has writes that nobody else has, in its log alone or in tables too."""
    with Pair("promote") as p:
        p.a.start()
        lsn = p.fill(p.ca, 100)
        p.follow(p.b, p.a)
        assert p.cb.get(b"none", min_lsn=lsn) is None
        p.group.link("b", "a").cut()
        p.group.link("a", "b").cut()
        for i in range(7):
            p.ca.put(b"lost%d" % i, b"of a alone")
        if in_tables:
            p.ca.flush()
        p.a.kill()
        epoch = p.cb.promote(force=True)
        p.cb.expect_role("primary")
        lsn = p.fill(p.cb, 100)
        p.group.heal()
        flags = ["--follow", p.group.link("a", "b").address] if with_flag else []
        p.a.start(*flags)
        p.ca.await_following()
        p.expect_equal(lsn)
        assert p.ca.get(b"lost0") is None
        assert p.ca.status().epoch >= epoch
        kept = list(p.a.data.glob("diverged-*"))
        assert len(kept) == 1 and kept[0].is_dir() == in_tables, kept
        if in_tables:
            old = subprocess.run([varved.VARVE, "--data", kept[0], "get", "lost6"], capture_output=True, check=True)
            assert old.stdout.strip() == b"of a alone", old.stdout
        else:
            assert b"lost6" in kept[0].read_bytes()
        assert "diverged" in p.log(p.a)
        # Both as they were, when they are started again; b in spite of the flag that it was promoted with.
        assert p.a.stop() == 0 and p.b.stop() == 0
        p.b.start()
        p.cb.expect_role("primary")
        p.a.start()
        p.ca.await_following()
        p.expect_equal(p.fill(p.cb, 20))


def old_primary_with_a_flag():
    promote_and_come_back(with_flag=True, in_tables=False)


def old_primary_by_its_peers():
    promote_and_come_back(with_flag=False, in_tables=False)


def old_primary_with_tables():
    promote_and_come_back(with_flag=False, in_tables=True)


def a_primary_that_still_runs_hears_of_the_newer():
    with Pair("hears") as p:
        p.a.start()
        lsn = p.fill(p.ca, 30)
        p.follow(p.b, p.a)
        assert p.cb.get(b"none", min_lsn=lsn) is None
        p.group.link("a", "b").cut()
        p.group.link("b", "a").cut()
        p.cb.promote(force=True)
        p.ca.put(b"lost", b"of a alone")
        address = p.a.address
        p.group.heal()
        p.ca.await_following()
        assert p.a.address == address, "where it was before"
        slots = [s.value for s in p.ca.admin.Stats(admin_pb2.StatsRequest(), timeout=CALL_S).stats if s.name == "slots"]
        assert slots == [0], "it keeps log for followers that follow another now"
        p.expect_equal(p.fill(p.cb, 30))
        assert p.ca.get(b"lost") is None and len(list(p.a.data.glob("diverged-*.log"))) == 1
        # And back again, without any loss this time.
        lsn = p.cb.put(b"x", b"y")
        assert p.ca.get(b"x", min_lsn=lsn) == b"y"
        varved.until(lambda: hand_over(p.ca), "a takes over", SETTLE_S)
        p.cb.await_following()
        p.expect_equal(p.fill(p.ca, 30))
        assert not list(p.b.data.glob("diverged-*"))


def hand_over(new):
    """False: all was not well, it had lost its primary meanwhile, as on a machine that starves it."""
    lost = new.node.server.stderr().count('msg="lost ')
    new.await_following()
    varved.until(lambda: (s := new.status()).connected and (not s.lag_lsn or s.lag_ms < 1000), "it is near", SETTLE_S)
    try:
        new.promote()
        return True
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.FAILED_PRECONDITION and new.node.server.stderr().count('msg="lost ') > lost, e
        return False


def a_primary_that_is_well_hands_over():
    """Under load, to and fro; nothing that was acknowledged is cut off, with nobody who confirms it."""
    with Pair("handover") as p:
        p.a.start()
        p.fill(p.ca, 100)
        p.follow(p.b, p.a)
        p.cb.await_following()
        for number in range(10 if FULL else 3):
            (old, new), node = [((p.ca, p.cb), p.a), ((p.cb, p.ca), p.b)][number % 2]
            writers = [Writer(old, b"%d/%d/" % (number, i)) for i in range(8)]
            varved.until(lambda: sum(w.acked for w in writers) > 400, "the load goes on")
            begun = time.monotonic()
            varved.until(lambda: hand_over(new), f"{new.node.name} takes over", SETTLE_S)
            lsn = new.put(b"after", b"%d" % number)
            took = time.monotonic() - begun
            acked = sum(w.join() for w in writers)
            print(f"  {acked} writes acknowledged; the new one writes {took * 1000:.0f} ms after it was asked", flush=True)
            old.await_following()
            p.expect_equal(lsn)
            for w in writers:
                for i in range(w.acked):
                    assert new.get(b"%s%d" % (w.prefix, i)) == b"v", f"{w.prefix} {i} of {w.acked} is lost"
            # At most what was on its way when it stopped, and is unknown to who wrote it.
            print(f"  cut off: {len(list(node.data.glob('diverged-*')))}", flush=True)


def nobody_to_get_a_copy_from():
    with Pair("unreachable") as p:
        p.follow(p.b, p.a, wait=False)
        varved.until(lambda: "no primary to get a copy from" in p.log(p.b), "b says so")
        assert p.b.stop() == 0, "it ends as it should"
        p.follow(p.b, p.a, wait=False)
        p.a.start()
        lsn = p.fill(p.ca, 20)
        p.b.server.await_ready()
        p.expect_equal(lsn)


def another_database_is_left_alone():
    with Pair("foreign") as p:
        p.a.start()
        p.ca.put(b"a", b"1")
        p.b.start()
        p.cb.put(b"b", b"2")
        assert p.b.stop() == 0
        p.follow(p.b, p.a)
        varved.until(lambda: "another database" in p.log(p.b), "b says so")
        assert p.cb.get(b"b") == b"2"
        p.cb.expect_role("follower")


def only_who_has_the_right():
    with Pair("rights") as p:
        tokens, token = p.work / "tokens", p.work / "token"
        secrets = {"client": "c" * 32, "replica": "r" * 32}
        tokens.write_text("".join(f"{user} sha256:{hashlib.sha256(secret.encode()).hexdigest()} "
                                  f"{'replica' if user == 'replica' else 'read,write'}\n"
                                  for user, secret in secrets.items()))
        token.write_text(secrets["client"])
        p.a.start(f"--TOKENS_FILE={tokens}")
        metadata = [("authorization", f"Bearer {secrets['client']}")]
        p.ca.kv.Put(kv_pb2.PutRequest(key=b"a", value=b"1"), metadata=metadata, timeout=CALL_S)
        p.follow(p.b, p.a, wait=False)
        varved.until(lambda: "no primary to get a copy from" in p.log(p.b), "b says so")
        assert p.b.stop() == 0
        p.b.flags.append(f"--FOLLOW_TOKEN_FILE={token}")
        p.b.start(wait=False)
        varved.until(lambda: "needs the role replica" in p.log(p.b), "b says that its token is not enough")
        token.write_text(secrets["replica"] + "\n")
        p.b.server.await_ready()
        assert p.cb.get(b"a") == b"1"
        p.cb.await_following()


def a_follower_without_its_flag_is_no_primary():
    with Pair("flagless") as p:
        p.a.start()
        lsn = p.ca.put(b"a", b"1")
        p.follow(p.b, p.a)
        assert p.cb.get(b"a", min_lsn=lsn) == b"1"
        assert p.b.stop() == 0
        p.a.kill()
        p.b.flags = []
        p.b.start()
        p.cb.expect_role("superseded")
        code, why, _ = refusal(lambda: p.cb.kv.Put(kv_pb2.PutRequest(key=b"x", value=b"y"), timeout=CALL_S))
        assert (code, why) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_PRIMARY"), (code, why)
        p.a.start()
        p.cb.await_following()
        p.expect_equal(p.fill(p.ca, 20))


SCENARIOS = [bootstrap_and_read_your_writes, restarts_of_either_side, a_link_that_is_cut_at_any_byte,
             a_trimmed_log_means_a_new_copy, old_primary_with_a_flag, old_primary_by_its_peers, old_primary_with_tables,
             a_primary_that_still_runs_hears_of_the_newer, a_primary_that_is_well_hands_over,
             nobody_to_get_a_copy_from, another_database_is_left_alone, only_who_has_the_right,
             a_follower_without_its_flag_is_no_primary]


def main():
    for scenario in SCENARIOS:
        if len(sys.argv) > 1 and not any(word in scenario.__name__ for word in sys.argv[1:]):
            continue
        begun = time.monotonic()
        print(scenario.__name__, flush=True)
        scenario()
        print(f"  {time.monotonic() - begun:.1f} s", flush=True)


SEED = varved.seed()

if __name__ == "__main__":
    main()
