"""
Watches with a client that is not ours: nothing lost and nothing twice, whatever becomes of the server, and a slow
consumer that costs a bounded amount of memory and is told what it has missed.
"""

import queue
import random
import threading
import unittest

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import varved
from varved import Varved, until
from varve.v1 import kv_pb2, kv_pb2_grpc, watch_pb2, watch_pb2_grpc

CALL_S = 60
OPTIONS = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1),
           ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def error_info(error):
    """The ErrorInfo of a failed call."""
    info = error_details_pb2.ErrorInfo()
    for detail in rpc_status.from_call(error).details:
        if detail.Unpack(info):
            return info
    raise AssertionError(f"no ErrorInfo: {error}")


class Follower(threading.Thread):
    """Watches on and on, going on where it was told to, whatever happens; keeps all that it is told."""

    def __init__(self, prefix=b""):
        super().__init__(daemon=True)
        self.prefix = prefix
        self.address = queue.SimpleQueue()  # of the servers to follow, one after the other; None: enough
        self.batches = []  # [(lsn, ...)] of each message
        self.events = {}   # lsn -> event
        self.lsn = 0
        self.failure = None
        self.call = None

    def run(self):
        try:
            while (address := self.address.get()) is not None:
                with grpc.insecure_channel(address, options=OPTIONS) as channel:
                    self.follow(watch_pb2_grpc.WatchStub(channel))
        except BaseException as e:  # noqa: BLE001 - for the test's own thread
            self.failure = e

    def follow(self, stub):
        self.call = stub.Watch(watch_pb2.WatchRequest(prefix=self.prefix, from_lsn=self.lsn + 1))
        try:
            for message in self.call:
                for event in message.events:
                    assert event.lsn not in self.events, f"LSN {event.lsn} twice"
                    assert self.lsn < event.lsn <= message.lsn, f"LSN {event.lsn} after {self.lsn} in {message.lsn}"
                    self.events[event.lsn] = event
                if message.events:
                    self.batches.append([event.lsn for event in message.events])
                assert message.lsn >= self.lsn, f"lsn fell from {self.lsn} to {message.lsn}"
                self.lsn = message.lsn
        except grpc.RpcError as e:
            assert e.code() in GONE, e


class Writer(threading.Thread):
    """Writes until the server is gone: puts, deletes and atomic writes. Keeps what was acknowledged."""

    def __init__(self, address, number, seed, acked):
        super().__init__(daemon=True)
        self.address, self.number, self.rng, self.acked = address, number, random.Random(seed), acked
        self.failure = None

    def run(self):
        try:
            with grpc.insecure_channel(self.address, options=OPTIONS) as channel:
                self.write(kv_pb2_grpc.KVStub(channel))
        except BaseException as e:  # noqa: BLE001
            self.failure = e

    def write(self, stub):
        while True:
            ops = []
            for _ in range(1 if self.rng.random() < 0.6 else self.rng.randint(2, 9)):
                key = b"%s%d-%d" % (self.rng.choice([b"a", b"b"]), self.number, self.rng.randrange(50))
                value = None if self.rng.random() < 0.2 else self.rng.randbytes(self.rng.choice([0, 10, 100, 2000]))
                ops.append((key, value))
            try:
                response = stub.Write(kv_pb2.WriteRequest(ops=[
                    kv_pb2.Op(delete=kv_pb2.DeleteOp(key=key)) if value is None
                    else kv_pb2.Op(put=kv_pb2.PutOp(key=key, value=value)) for key, value in ops]), timeout=CALL_S)
            except grpc.RpcError as e:
                assert e.code() in GONE, e
                return
            self.acked.append((response.lsn - len(ops) + 1, ops))


class Watch(unittest.TestCase):
    def setUp(self):
        self.rng = random.Random(varved.seed())
        self.data = varved.work_dir("watch") / "data"

    def serve(self, *flags):
        server = Varved(self.data, *flags)
        self.addCleanup(server.__exit__, None)
        return server

    def test_nothing_is_lost_and_nothing_told_twice_over_kills(self):
        everything, half = Follower(), Follower(b"a")
        acked = []
        everything.start()
        half.start()
        for round_number in range(5):
            server = self.serve("--watch-progress-interval=50ms")
            everything.address.put(server.address)
            half.address.put(server.address)
            target = len(acked) + self.rng.randint(50, 800)
            writers = [Writer(server.address, n, self.rng.getrandbits(32), acked) for n in range(4)]
            for writer in writers:
                writer.start()
            until(lambda: len(acked) >= target or any(w.failure for w in writers), f"{target} writes")
            if round_number == 2:
                everything.call.cancel()  # and one whose client breaks it off
                everything.address.put(server.address)
            server.kill()
            for writer in writers:
                writer.join(CALL_S)
                self.assertIsNone(writer.failure)
        server = self.serve("--watch-progress-interval=50ms")
        stub = kv_pb2_grpc.KVStub(grpc.insecure_channel(server.address, options=OPTIONS))
        newest = stub.Put(kv_pb2.PutRequest(key=b"end", value=b""), timeout=CALL_S).lsn
        for follower in (everything, half):
            follower.address.put(server.address)
            until(lambda f=follower: f.lsn >= newest or f.failure, "the followers are at the end")
            self.assertIsNone(follower.failure)
            follower.address.put(None)
            follower.call.cancel()
            follower.join(CALL_S)
            self.assertIsNone(follower.failure)
        self.check(everything, half, acked, newest)
        self.assertEqual(server.stop(), 0)

    def check(self, everything, half, acked, newest):
        self.assertEqual(sorted(everything.events), list(range(1, newest + 1)), "each LSN once")
        starts = {}
        for first_lsn, ops in acked:
            for i, (key, value) in enumerate(ops):
                event = everything.events[first_lsn + i]
                self.assertEqual(event.key, key)
                self.assertEqual(event.type, watch_pb2.EVENT_TYPE_DELETE if value is None else watch_pb2.EVENT_TYPE_PUT)
                self.assertEqual(event.value, value or b"")
            starts[first_lsn] = len(ops)
        ends = {batch[-1] for batch in everything.batches}
        for first_lsn, count in starts.items():
            self.assertFalse(ends & set(range(first_lsn, first_lsn + count - 1)), "a batch was cut")
        self.assertEqual({lsn for lsn, event in everything.events.items() if event.key.startswith(b"a")},
                         set(half.events))
        print(f"{newest} operations, {len(acked)} writes acknowledged, {len(everything.batches)} messages", flush=True)

    def test_a_slow_consumer_costs_little_and_is_told_what_it_missed(self):
        server = self.serve("--memtable-size=1MiB", "--wal-segment-size=1MiB", "--watch-progress-interval=50ms",
                            "--cache-capacity=8MiB")
        fast = Follower(b"fast")
        fast.start()
        fast.address.put(server.address)
        slow_channels, slow = [], []
        for _ in range(20):
            channel = grpc.insecure_channel(server.address, options=[*OPTIONS, ("grpc.use_local_subchannel_pool", 1)])
            self.addCleanup(channel.close)
            slow_channels.append(channel)
            call = watch_pb2_grpc.WatchStub(channel).Watch(watch_pb2.WatchRequest(from_lsn=1))
            self.assertEqual(next(call).lsn, 0)  # and no further read for now
            slow.append(call)
        stub = kv_pb2_grpc.KVStub(grpc.insecure_channel(server.address, options=OPTIONS))
        value = self.rng.randbytes(100000)
        before = rss(server)
        for n in range(1200):  # 120 MB
            stub.Put(kv_pb2.PutRequest(key=b"k%d" % (n % 100), value=value,
                                       durability=kv_pb2.DURABILITY_ASYNC), timeout=CALL_S)
        newest = stub.Put(kv_pb2.PutRequest(key=b"fast", value=b"1"), timeout=CALL_S).lsn
        until(lambda: fast.lsn >= newest or fast.failure, "who reads is not held back")
        self.assertIsNone(fast.failure)
        self.assertIn(newest, fast.events)
        grown = rss(server) - before
        print(f"{grown >> 20} MiB more with 20 slow consumers of 120 MB", flush=True)
        if not varved.SANITIZED:  # which keeps what was freed
            self.assertLess(grown, 100 << 20)
        trimmed = 0
        for call in slow:
            lsn = 0
            with self.assertRaises(grpc.RpcError) as caught:
                for message in call:
                    for event in message.events:
                        self.assertEqual(event.lsn, lsn + 1, "nothing is skipped")
                        lsn = event.lsn
                    self.assertEqual(message.lsn, lsn)
                    if lsn == newest:
                        call.cancel()
            if lsn < newest:
                trimmed += 1
                self.assertEqual(caught.exception.code(), grpc.StatusCode.OUT_OF_RANGE)
                info = error_info(caught.exception)
                self.assertEqual((info.domain, info.reason), ("varve", "LSN_TRIMMED"))
                self.assertEqual(int(info.metadata["resume_lsn"]), lsn + 1)
                self.assertGreater(int(info.metadata["oldest_lsn"]), lsn + 1)
        self.assertGreater(trimmed, 0)
        fast.address.put(None)
        fast.call.cancel()
        fast.join(CALL_S)
        self.assertEqual(server.stop(), 0)

    def test_a_shutdown_ends_watches_and_says_so(self):
        server = self.serve()
        with grpc.insecure_channel(server.address, options=OPTIONS) as channel:
            call = watch_pb2_grpc.WatchStub(channel).Watch(watch_pb2.WatchRequest())
            self.assertEqual(next(call).lsn, 0)
            server.process.terminate()
            with self.assertRaises(grpc.RpcError) as caught:
                for mark in call:  # that was due just then
                    self.assertFalse(mark.events)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertEqual(error_info(caught.exception).reason, "SHUTTING_DOWN")
        self.assertEqual(server.wait(), 0)


def rss(server):
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS"))


if __name__ == "__main__":
    unittest.main()
