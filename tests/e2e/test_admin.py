"""Looking after a running server: Admin by a client that is not ours, and by the varve command."""

import json
import signal
import subprocess
import threading
import unittest

import grpc

import varved
from varved import VARVE, Varved, until
from varve.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc

CALL_S = 60


class Admin(unittest.TestCase):
    def setUp(self):
        self.work = varved.work_dir("admin")
        self.backups = self.work / "backups"
        self.backups.mkdir()

    def serve(self, *flags, data=None, **kwargs):
        server = Varved(data or self.work / "data", f"--backup-dir={self.backups}", *flags, **kwargs)
        self.addCleanup(server.__exit__, None)
        self.server = server
        channel = grpc.insecure_channel(server.address, options=[("grpc.enable_retries", 0)])
        self.addCleanup(channel.close)
        self.kv = kv_pb2_grpc.KVStub(channel)
        self.admin = admin_pb2_grpc.AdminStub(channel)
        return server

    def put(self, key, value):
        self.kv.Put(kv_pb2.PutRequest(key=key, value=value), timeout=CALL_S)

    def get(self, key):
        return self.kv.Get(kv_pb2.GetRequest(key=key), timeout=CALL_S).value

    def status(self):
        return self.admin.Status(admin_pb2.StatusRequest(), timeout=CALL_S)

    def stats(self):
        return {s.name: s.value for s in self.admin.Stats(admin_pb2.StatsRequest(), timeout=CALL_S).stats}

    def refused(self, code, call, request):
        with self.assertRaises(grpc.RpcError) as caught:
            call(request, timeout=CALL_S)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        return caught.exception.details()

    def is_limited(self):
        """A write is refused; a machine that takes a second for each has to try again."""
        try:
            self.put(b"c", b"2")
            return False
        except grpc.RpcError as e:
            self.assertEqual(e.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, e.details())
            return True

    def varve(self, *words, code=0):
        done = subprocess.run([VARVE, "--server", self.server.address, *words], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=120)
        self.assertEqual(done.returncode, code, done.stderr.decode(errors="replace"))
        return done.stdout.decode() if code == 0 else done.stderr.decode()

    def test_every_call(self):
        self.serve()
        self.put(b"a", b"1")
        self.put(b"b", b"1")
        self.assertEqual(self.admin.Flush(admin_pb2.FlushRequest(), timeout=CALL_S).flushed_lsn, 2)
        self.kv.Delete(kv_pb2.DeleteRequest(key=b"a"), timeout=CALL_S)
        self.admin.SetSafeCompactionLsn(admin_pb2.SetSafeCompactionLsnRequest(lsn=2), timeout=CALL_S)
        self.admin.Compact(admin_pb2.CompactRequest(), timeout=CALL_S)
        self.assertEqual(self.stats()["dropped_tombstones"], 0, "the gate is closed")
        self.admin.SetSafeCompactionLsn(admin_pb2.SetSafeCompactionLsnRequest(lsn=3), timeout=CALL_S)
        self.admin.Compact(admin_pb2.CompactRequest(), timeout=CALL_S)
        self.assertEqual(self.stats()["dropped_tombstones"], 1, "all of it is confirmed")
        status = self.status()
        self.assertEqual((status.role, status.serving, status.last_lsn, status.safe_compaction_lsn, status.epoch),
                         ("primary", True, 3, 3, 1))
        self.assertEqual(self.admin.Verify(admin_pb2.VerifyRequest(), timeout=CALL_S).damage_count, 0)
        self.refused(grpc.StatusCode.FAILED_PRECONDITION, self.admin.Promote, admin_pb2.PromoteRequest())
        self.admin.SetRateLimit(admin_pb2.SetRateLimitRequest(user=b"default", writes_per_second=1, write_burst=1),
                                timeout=CALL_S)
        self.put(b"c", b"1")
        until(self.is_limited, "more than a write in a second is refused")
        self.assertEqual(self.server.stop(), 0)
        self.serve()
        self.assertEqual(self.status().safe_compaction_lsn, 3, "kept")
        self.put(b"c", b"2")
        self.put(b"c", b"3")

    def test_backups_beside_writers_are_served_by_another_varved(self):
        self.serve()
        stop, acknowledged = threading.Event(), [0]

        def write():
            while not stop.is_set():
                self.put(b"%08d" % acknowledged[0], b"x" * 1000)
                acknowledged[0] += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            taken, previous = [], b""
            for name in (b"one", b"two", b"three"):
                until(lambda: acknowledged[0] > 100 * (len(taken) + 1), "writes")
                before = acknowledged[0]
                answer = self.admin.Backup(admin_pb2.BackupRequest(name=name, incremental=previous), timeout=CALL_S)
                self.assertGreaterEqual(answer.lsn, before)
                taken.append((name.decode(), before, answer.lsn))
                previous = name
        finally:
            stop.set()
            writer.join()
        self.assertEqual(self.server.stop(), 0)
        for name, before, lsn in taken:
            server = self.serve(data=self.backups / name)
            self.assertEqual(self.status().last_lsn, lsn)
            for key in (0, before - 1, lsn - 1):
                self.assertEqual(self.get(b"%08d" % key), b"x" * 1000)
            self.assertEqual(self.get(b"%08d" % lsn), b"", "nothing of later")
            self.assertEqual(server.stop(), 0)

    def test_a_drain_does_not_wait_for_a_backup(self):
        server = self.serve("--backup-rate=100KiB")
        for i in range(10):
            self.put(b"%d" % i, bytes(1 << 20))
        call = self.admin.Backup.future(admin_pb2.BackupRequest(name=b"slow"), timeout=CALL_S)
        until(lambda: (self.backups / "slow").exists(), "the backup has begun")
        self.put(b"beside", b"it")
        server.process.send_signal(signal.SIGTERM)
        self.assertEqual(call.code(), grpc.StatusCode.UNAVAILABLE, call.details())
        self.assertEqual(server.wait(), 0)
        self.assertFalse((self.backups / "slow").exists(), "nothing is left of it")
        self.serve()
        self.assertEqual(self.get(b"beside"), b"it")

    def test_killed_amid_a_backup(self):
        server = self.serve("--backup-rate=100KiB")
        for i in range(10):
            self.put(b"%d" % i, bytes(1 << 20))
        call = self.admin.Backup.future(admin_pb2.BackupRequest(name=b"torn"), timeout=CALL_S)
        until(lambda: list((self.backups / "torn").glob("*.sst")), "the backup has begun")
        server.kill()
        self.assertNotEqual(call.code(), grpc.StatusCode.OK)
        code, words = varved.refused(self.backups / "torn")
        self.assertEqual(code, 1)
        self.assertIn("no MANIFEST", words, "it is not mistaken for a backup")
        self.serve()
        self.assertEqual(self.get(b"9"), bytes(1 << 20))
        self.refused(grpc.StatusCode.ALREADY_EXISTS, self.admin.Backup, admin_pb2.BackupRequest(name=b"torn"))
        self.admin.Backup(admin_pb2.BackupRequest(name=b"whole"), timeout=CALL_S)

    def test_the_command(self):
        self.serve()
        self.put(b"alpha", b"1")
        self.varve("flush")
        self.assertIn("serving true\n", self.varve("status"))
        self.assertIn("sstable_count 1\n", self.varve("stats"))
        self.varve("compact")
        first = json.loads(self.varve("backup", "monday", "--json"))
        self.assertEqual((first["lsn"], first["file_count"]), (1, 2))
        self.put(b"beta", b"2")
        second = json.loads(self.varve("backup", "tuesday", "--incremental", "monday", "--json"))
        self.assertEqual(second["file_count"], 3)
        self.assertLess(second["copied_bytes"], second["bytes"] - first["copied_bytes"] + 1)
        self.assertIn("ALREADY_EXISTS (EXISTS)", self.varve("backup", "monday", code=3))
        self.assertIn("BAD_BACKUP_NAME", self.varve("backup", "../monday", code=3))
        self.assertIn(": 0 damaged\n", self.varve("verify"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
