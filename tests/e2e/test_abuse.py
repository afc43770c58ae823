"""
A server among hostile and clumsy clients: does it keep answering a client that behaves, within its memory, and is
everything given back?

Whether it answers as fast as ever can't be told from two figures on a machine with two cores, where the clients take
more of them than the server. So a phase with the crowd of crowd.py doing harm always stands beside one with the same
crowd meaning well: as many processes, connections and calls, and about the same load. The ratio of the two 99th
percentiles is one sample. There are as many pairs as it takes until the 90 % confidence interval of the geometric mean
lies clear of 2, within bounds; the test fails if all of the interval lies above. The order within the pairs
alternates, so that a drift of the machine cancels out.

    E2E_FULL=1    each kind of harm on its own, too, and longer phases
"""

import gc
import hashlib
import math
import os
import re
import resource
import statistics
import time
import unittest
from pathlib import Path

import varved
from crowd import KINDS, Crowd
from varved import Varved, until

FULL = bool(os.environ.get("E2E_FULL"))
SANITIZED = bool(os.environ.get("E2E_SANITIZE"))
PHASE_S = 4 if FULL else 2
PAIRS_MIN, PAIRS_MAX = (6, 20) if FULL else (3, 6)
RATIO_MAX = 2
QUOTA_BYTES = 256 << 20
TOKEN = b"abuse-0123456789abcdef0123456789abcdef"
CALL_S = 60
# Two-sided 90 % of Student's t, by degrees of freedom.
STUDENT = [0, 6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81, 1.80, 1.78, 1.77, 1.76, 1.75, 1.75, 1.74,
           1.73, 1.73, 1.72]


def p99(latencies):
    return sorted(latencies)[len(latencies) * 99 // 100]


def interval(ratios):
    """The geometric mean, and the ends of its 90 % confidence interval."""
    logs = [math.log(ratio) for ratio in ratios]
    half = STUDENT[len(logs) - 1] * statistics.stdev(logs) / math.sqrt(len(logs))
    mean = statistics.fmean(logs)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


class Abuse(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.seed = varved.seed()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < 4096:
            raise AssertionError(f"{hard} files may be open here, 4096 are needed: ulimit -n 4096")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
        work = varved.work_dir("abuse")
        (work / "tokens").write_text(f"user sha256:{hashlib.sha256(TOKEN).hexdigest()} read,write,admin\n")
        cls.server = Varved(work / "data", f"--TOKENS_FILE={work / 'tokens'}", f"--RPC_MEMORY_QUOTA={QUOTA_BYTES}",
                            "--RPC_MAX_STREAMS=20000",  # so that the 10,000 leave room for others
                            "--MAX_VALUE_SIZE=64KiB", "--MAX_BATCH_SIZE=1MiB", "--MEMTABLE_SIZE=4MiB",
                            "--CACHE_CAPACITY=8MiB", "--WAL_SEGMENT_SIZE=4MiB")
        cls.addClassCleanup(cls.server.__exit__, None)
        cls.proc = Path("/proc") / str(cls.server.process.pid)
        # The crowd is forked before gRPC has threads in this process.
        cls.crowds = {kind: Crowd(cls.server.address, TOKEN, cls.seed, [kind]) for kind in KINDS} if FULL else {}
        cls.crowd = Crowd(cls.server.address, TOKEN, cls.seed)
        cls.addClassCleanup(lambda: [crowd.close() for crowd in (cls.crowd, *cls.crowds.values())])
        cls.meet()

    @classmethod
    def meet(cls):
        """The client that behaves."""
        import grpc
        from varve.v1 import kv_pb2, kv_pb2_grpc
        cls.pb = kv_pb2
        channel = grpc.insecure_channel(cls.server.address, options=[("grpc.enable_retries", 0)])
        cls.addClassCleanup(channel.close)
        cls.kv = kv_pb2_grpc.KVStub(channel)
        cls.auth = (("authorization", f"Bearer {TOKEN.decode()}"),)
        for at in range(0, 2000, 100):
            cls.kv.Write(kv_pb2.WriteRequest(ops=[kv_pb2.Op(put=kv_pb2.PutOp(key=b"data%04d" % key, value=bytes(1000)))
                                                  for key in range(at, at + 100)]), timeout=CALL_S, metadata=cls.auth)
        cls.kv.Put(kv_pb2.PutRequest(key=b"good", value=b"v" * 100), timeout=CALL_S, metadata=cls.auth)

    # ---- what the server has ----

    def status_bytes(self, field):
        return int(re.search(rf"{field}:\s+(\d+) kB", (self.proc / "status").read_text())[1]) << 10

    def cpu_s(self):
        fields = (self.proc / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget_peak(self):
        (self.proc / "clear_refs").write_text("5")

    # ---- phases ----

    def phase(self, crowd, good):
        """The behaving client's latencies while the crowd is about."""
        latencies, cpu_s = [], self.cpu_s()
        gc.disable()  # a pause of ours is no latency of the server's
        crowd.go(good, PHASE_S)
        while crowd.busy():
            start = time.perf_counter()
            if len(latencies) % 4:
                got = self.kv.Get(self.pb.GetRequest(key=b"good"), timeout=CALL_S, metadata=self.auth)
                self.assertEqual(got.value, b"v" * 100)
            else:
                self.kv.Put(self.pb.PutRequest(key=b"other", value=b"v" * 100, durability="DURABILITY_ASYNC"),
                            timeout=CALL_S, metadata=self.auth)
            latencies.append(time.perf_counter() - start)
            time.sleep(0.0005)
        gc.enable()
        counts = crowd.done()
        until(lambda: varved.sockets(self.server) <= self.idle_sockets, "the crowd's connections are gone")
        return p99(latencies), f"{len(latencies)} calls, {self.cpu_s() - cpu_s:.2f} s of the server's CPU", counts

    def compare(self, crowd, name):
        ratios = []
        while True:
            both = {}
            for good in (True, False) if len(ratios) % 2 else (False, True):
                both[good], figures, counts = self.phase(crowd, good)
                print(f"{name}, {'harmless' if good else 'harmful '}: p99 {both[good] * 1e3:.2f} ms of {figures}; {counts}",
                      flush=True)
            ratios.append(both[False] / both[True])
            if len(ratios) < PAIRS_MIN and not SANITIZED:
                continue
            if SANITIZED:
                return
            mean, low, high = interval(ratios)
            if high < RATIO_MAX or low > RATIO_MAX or len(ratios) >= PAIRS_MAX:
                break
        print(f"{name}: {mean:.2f} times its p99, with 90 % confidence {low:.2f} to {high:.2f}"
              f"{'' if high < RATIO_MAX or low > RATIO_MAX else ': the machine is too noisy to tell'}", flush=True)
        self.assertLess(low, RATIO_MAX)

    def abuse(self, crowd, name):
        start, logged = time.monotonic(), self.server.stderr().count("grpc: ")
        idle_bytes, self.idle_sockets = self.status_bytes("VmRSS"), varved.sockets(self.server)
        self.forget_peak()
        self.compare(crowd, name)
        peak_bytes, after_bytes = self.status_bytes("VmHWM"), self.status_bytes("VmRSS")
        print(f"{name}: resident {idle_bytes >> 20} MiB before, {peak_bytes >> 20} at most, {after_bytes >> 20} after",
              flush=True)
        # Whoever can connect can make the C core complain, so it may say so much and no more (a line in front of
        # each says how many were left out).
        logged = self.server.stderr().count("grpc: ") - logged
        print(f"{name}: {logged} lines of the C core in the log", flush=True)
        self.assertLess(logged, 2 * (50 + 5 * (time.monotonic() - start + 1)))
        if not SANITIZED:
            self.assertLess(peak_bytes, idle_bytes + QUOTA_BYTES)

    def test_everything_at_once(self):
        self.abuse(self.crowd, "all")

    @unittest.skipUnless(FULL, "only with E2E_FULL")
    def test_each_kind(self):
        for kind, crowd in self.crowds.items():
            with self.subTest(kind.__name__):
                self.abuse(crowd, kind.__name__)

    def test_zz_the_end(self):
        """All is well in the end: what was written is there, and the server stops in order."""
        got = self.kv.Get(self.pb.GetRequest(key=b"good"), timeout=CALL_S, metadata=self.auth)
        self.assertEqual(got.value, b"v" * 100)
        self.assertEqual(self.server.stop(), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
