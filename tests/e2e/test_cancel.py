"""
Clients that leave in the middle: cancelled, past their deadline, their connection closed, their process killed. What
they held is given back at once (streams, memory, snapshots, descriptors), and a durable write is done wholly or not
at all, whatever became of its client.
"""

import os
import signal
import unittest

import grpc

import h2
import varved
from h2 import Connection, frame
from varved import Varved, until
from varve.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc, snapshots_pb2, snapshots_pb2_grpc, watch_pb2

CALL_S = 60
SCAN, WATCH, PIPELINE, WRITE = "/varve.v1.KV/Scan", "/varve.v1.Watch/Watch", "/varve.v1.KV/Pipeline", "/varve.v1.KV/Write"
STREAMS = 50
ENTRIES, VALUE_BYTES = 4000, 4000  # 16 MB, far more than a stream's windows and the sockets hold


class Cancel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Varved(varved.work_dir("cancel") / "data", "--MEMTABLE_SIZE=4MiB")
        cls.addClassCleanup(cls.server.__exit__, None)
        channel = grpc.insecure_channel(cls.server.address, options=[("grpc.enable_retries", 0)])
        cls.addClassCleanup(channel.close)
        cls.kv = kv_pb2_grpc.KVStub(channel)
        cls.admin = admin_pb2_grpc.AdminStub(channel)
        cls.snapshots = snapshots_pb2_grpc.SnapshotsStub(channel)
        for at in range(0, ENTRIES, 500):
            cls.kv.Write(kv_pb2.WriteRequest(ops=[
                kv_pb2.Op(put=kv_pb2.PutOp(key=b"data%05d" % key, value=bytes(VALUE_BYTES)))
                for key in range(at, at + 500)]), timeout=CALL_S)

    def setUp(self):
        self.more = None

    def stat(self, name):
        return next(stat.value for stat in self.admin.Stats(admin_pb2.StatsRequest(), timeout=CALL_S).stats
                    if stat.name == name)

    def held(self):
        """What clients hold; memory of cursors counts what scans read ahead."""
        names = "rpc_streams", "rpc_bytes", "cursor_memory_bytes"
        stats = {stat.name: stat.value for stat in self.admin.Stats(admin_pb2.StatsRequest(), timeout=CALL_S).stats}
        return {"sockets": varved.sockets(self.server), **{name: stats[name] for name in names}}

    def given_back(self, before):
        now = self.held()
        more = {name: (value, before[name]) for name, value in now.items() if value > before[name]}
        if more and more != self.more:
            print(f"more than before: {more}", flush=True)
            self.more = more
        return not more

    # ---- what a client is in the middle of ----

    def scan(self, connection):
        """It has had some and reads no more, so that the server has much left to send."""
        stream = connection.call(SCAN, kv_pb2.ScanRequest(prefix=b"data").SerializeToString())
        while True:
            kind, _, at, _ = connection.read()
            if at == stream and kind == h2.DATA:
                return stream

    def watch(self, connection):
        """It has caught up and waits."""
        stream = connection.call(WATCH, watch_pb2.WatchRequest(prefix=b"nothing").SerializeToString())
        self.first_message(connection, stream)
        return stream

    def watch_behind(self, connection):
        """It has all of the log to read, and doesn't."""
        stream = connection.call(WATCH, watch_pb2.WatchRequest(from_lsn=1).SerializeToString())
        self.first_message(connection, stream)
        return stream

    def pipeline(self, connection):
        body = kv_pb2.PipelineRequest(id=1, op=kv_pb2.Op(get=kv_pb2.GetOp(key=b"data00000"))).SerializeToString()
        stream = connection.call(PIPELINE, body, end=False)
        self.first_message(connection, stream)
        return stream

    @staticmethod
    def first_message(connection, stream):
        if connection.first_answers([stream]) != 1:
            raise AssertionError("the stream has ended")

    # ---- how it leaves ----

    @staticmethod
    def cancelled(connection, stream):
        connection.sock.sendall(frame(h2.RST_STREAM, 0, stream, b"\0\0\0\x08"))

    @staticmethod
    def closed(connection, _):
        connection.close()

    @staticmethod
    def lost(connection, _):
        h2.reset(connection.sock)

    def matrix(self, begin):
        for leave in (self.cancelled, self.closed, self.lost):
            with self.subTest(leave.__name__):
                before = self.held()
                connections = [Connection(self.server.address, window=20000) for _ in range(STREAMS)]
                self.addCleanup(lambda closing=tuple(connections): [connection.close() for connection in closing])
                streams = [begin(connection) for connection in connections]
                self.assertEqual(self.stat("rpc_streams"), before["rpc_streams"] + STREAMS)
                for connection, stream in zip(connections, streams):
                    leave(connection, stream)
                until(lambda: self.stat("rpc_streams") == before["rpc_streams"], "the streams have ended")
                for connection in connections:
                    connection.close()
                until(lambda: self.given_back(before), "all is given back")

    def test_scan(self):
        self.matrix(self.scan)

    def test_watch(self):
        self.matrix(self.watch)

    def test_watch_that_is_behind(self):
        self.matrix(self.watch_behind)

    def test_pipeline(self):
        self.matrix(self.pipeline)

    def test_deadlines(self):
        """The server ends what is past its deadline by itself, also if the client says nothing more."""
        before = self.stat("rpc_streams")
        for path, body in ((SCAN, kv_pb2.ScanRequest(prefix=b"data")), (WATCH, watch_pb2.WatchRequest()),
                           (PIPELINE, kv_pb2.PipelineRequest(id=1, op=kv_pb2.Op(get=kv_pb2.GetOp(key=b"x"))))):
            connection = Connection(self.server.address, window=20000)
            self.addCleanup(connection.close)
            self.first_message(connection, connection.call(path, body.SerializeToString(),
                                                           [(b"grpc-timeout", b"5S")], end=path != PIPELINE))
        until(lambda: self.stat("rpc_streams") == before, "the streams have ended")

    def test_a_snapshot_outlives_the_connection_that_opened_it(self):
        """It is leased, not held: only its lease and its release end it."""
        before = self.stat("rpc_leases")
        with grpc.insecure_channel(self.server.address) as channel:
            snapshot = snapshots_pb2_grpc.SnapshotsStub(channel).Open(
                snapshots_pb2.OpenRequest(lease_ms=60000), timeout=CALL_S)
        self.assertEqual(self.stat("rpc_leases"), before + 1)
        self.kv.Get(kv_pb2.GetRequest(key=b"x", snapshot_id=snapshot.id), timeout=CALL_S)
        self.snapshots.Release(snapshots_pb2.ReleaseRequest(id=snapshot.id), timeout=CALL_S)
        self.assertEqual(self.stat("rpc_leases"), before)

    # ---- durable writes ----

    def batch(self, number):
        """A write of many keys, so that a half of it could be seen."""
        return kv_pb2.WriteRequest(ops=[kv_pb2.Op(put=kv_pb2.PutOp(key=b"write%04d-%02d" % (number, i), value=b"v" * 500))
                                        for i in range(20)])

    def found(self, number):
        answer = self.kv.MultiGet(kv_pb2.MultiGetRequest(keys=[op.put.key for op in self.batch(number).ops]),
                                  timeout=CALL_S)
        return sum(result.found for result in answer.results)

    def test_writes_whose_client_has_left(self):
        """
        Sent in full and never waited for: each is there wholly or not at all; those of connections that were closed
        or lost after the server had read them are, too. What is there survives SIGKILL.
        """
        for number in range(300):
            connection = Connection(self.server.address)
            stream = connection.call(WRITE, self.batch(number).SerializeToString())
            (self.cancelled, self.closed, self.lost)[number % 3](connection, stream)
            connection.close()
        # The next write is behind all that were accepted.
        self.kv.Put(kv_pb2.PutRequest(key=b"last", value=b"v"), timeout=CALL_S)
        until(lambda: self.stat("rpc_calls") == 1, "no write is under way", 30)
        counts = [self.found(number) for number in range(300)]
        print(f"{sum(count == 20 for count in counts)} of 300 writes were done", flush=True)
        self.assertLessEqual(set(counts), {0, 20})
        last = self.admin.Status(admin_pb2.StatusRequest(), timeout=CALL_S)
        self.assertEqual(last.last_lsn, last.durable_lsn)

    def test_writers_that_are_killed(self):
        """Processes that write until they are killed: what they were told is there, and nothing by halves."""
        for round_ in range(5):
            told_r, told_w = os.pipe()
            child = os.fork()
            if child == 0:
                try:  # plain sockets: gRPC's library does not work behind a fork
                    connection = Connection(self.server.address)
                    for number in range(1000 + round_ * 1000, 2000 + round_ * 1000):
                        if connection.answers([connection.call(WRITE, self.batch(number).SerializeToString())]) != 1:
                            break
                        os.write(told_w, b".")
                finally:
                    os._exit(1)
            os.close(told_w)
            told = 0
            while told < 10:
                said = os.read(told_r, 10)
                self.assertTrue(said, f"the writer has ended after {told} writes")
                told += len(said)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            while more := os.read(told_r, 4096):
                told += len(more)
            os.close(told_r)
            until(lambda: self.stat("rpc_calls") == 1, "no write is under way", 30)
            counts = [self.found(1000 + round_ * 1000 + number) for number in range(told + 2)]
            self.assertEqual(counts[:told], [20] * told)
            self.assertIn(counts[told], (0, 20))
            self.assertEqual(counts[told + 1], 0)

    def test_zz_the_end(self):
        self.assertEqual(self.server.stop(), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
