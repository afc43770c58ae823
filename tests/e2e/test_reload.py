"""The configuration of a running server changes, by SIGHUP and by Admin.Reload: each key that can, as a whole or not at
all, with the precedence of the start."""

import json
import re
import secrets
import signal
import threading
import unittest
import urllib.request

import grpc

import varved
from test_security import Authority, line, reason
from varved import Varved, until
from varve.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc

CALL_S = 60
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


class Reload(unittest.TestCase):
    def setUp(self):
        self.work = varved.work_dir("reload")
        self.file = self.work / "varved.conf"

    def serve(self, text, *flags, **kwargs):
        self.configure(text)
        self.server = Varved(self.work / "data", f"--config={self.file}", "--metrics-listen=127.0.0.1:0", *flags,
                             wait=False, **kwargs)
        self.addCleanup(self.server.__exit__, None)
        self.server.await_ready(2)
        self.connect()
        return self.server

    def connect(self, credentials=None):
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        address = self.server.address.replace("127.0.0.1", "localhost")
        channel = (grpc.secure_channel(address, credentials, options) if credentials else
                   grpc.insecure_channel(address, options))
        self.addCleanup(channel.close)
        self.kv, self.admin = kv_pb2_grpc.KVStub(channel), admin_pb2_grpc.AdminStub(channel)

    def configure(self, text):
        """In one step: nobody reads half a file."""
        new = self.work / "varved.conf.new"
        new.write_text(text)
        new.rename(self.file)

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.server.addresses[-1]}/metrics", timeout=60) as answer:
            return dict(re.findall(r"^(\S+) (\S+)$", answer.read().decode(), re.M))

    def by_signal(self, good=True):
        """SIGHUP, and until it was carried out, or refused; the last line about it."""
        words = "SIGHUP: configuration and files read again" if good else "SIGHUP: nothing is changed"
        before = self.server.stderr().count(words)
        self.server.process.send_signal(signal.SIGHUP)
        until(lambda: self.server.stderr().count(words) > before, f"the log says '{words}'")
        return [line for line in self.server.stderr().splitlines() if words in line][-1]

    def by_call(self, **kwargs):
        return self.admin.Reload(admin_pb2.ReloadRequest(), timeout=CALL_S, **kwargs)

    def put(self, key=b"k", value=b"v", **kwargs):
        self.kv.Put(kv_pb2.PutRequest(key=key, value=value), timeout=CALL_S, **kwargs)

    def get(self, key=b"k"):
        return self.kv.Get(kv_pb2.GetRequest(key=key), timeout=CALL_S).value

    def flush(self):
        self.admin.Flush(admin_pb2.FlushRequest(), timeout=CALL_S)

    def stats(self):
        return {s.name: s.value for s in self.admin.Stats(admin_pb2.StatsRequest(), timeout=CALL_S).stats}

    def fails(self, code, call, *args, **kwargs):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*args, **kwargs)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        return caught.exception

    def is_limited(self):
        try:
            self.put()
            return False
        except grpc.RpcError as e:
            self.assertEqual(e.code(), EXHAUSTED, e.details())
            return True

    def fill(self):
        for i in range(2000):
            self.kv.Put(kv_pb2.PutRequest(key=b"%06d" % i, value=secrets.token_bytes(2000),
                                          durability=kv_pb2.DURABILITY_ASYNC), timeout=CALL_S)
        self.flush()

    def read(self):
        for i in range(2000):
            self.assertEqual(len(self.get(b"%06d" % i)), 2000)

    # ---- each key, both ways ----

    def test_log(self):
        self.serve("LOG_LEVEL = warn\n")
        self.flush()
        self.assertNotIn("admin: flush", self.server.stderr())
        self.configure("LOG_LEVEL = info\nLOG_LINES_PER_SECOND = 100000\n")
        self.assertIn("changed: LOG_LEVEL, LOG_LINES_PER_SECOND", self.by_signal())
        self.put()
        self.flush()
        until(lambda: "admin: flush: done" in self.server.stderr(), "lines of level info")
        self.assertNotIn(" DEBUG ", self.server.stderr())
        self.configure("LOG_LEVEL = debug\nLOG_FORMAT = json\nACCESS_LOG_SAMPLE = 1\nSLOW_CALL_THRESHOLD = 1us\n")
        self.assertEqual(list(self.by_call().changed), ["LOG_LEVEL", "LOG_FORMAT", "LOG_LINES_PER_SECOND",
                                                        "ACCESS_LOG_SAMPLE", "SLOW_CALL_THRESHOLD"])
        self.put()
        self.flush()

        def events():
            lines = [json.loads(text) for text in self.server.stderr().splitlines() if text.startswith("{")]
            return {(line["event"], line["level"].lower()) for line in lines}
        wanted = {("log", "debug"), ("slow_call", "warn")}
        until(lambda: events() >= wanted, "lines as JSON, of level debug too, and slow calls")
        self.configure("LOG_LEVEL = error\n")
        self.by_call()
        size = len(self.server.stderr())
        self.put()
        self.flush()
        self.assertEqual(self.by_call().changed, [])
        self.assertEqual(self.server.stderr()[size:], "")

    def test_rates(self):
        limits = self.work / "limits"
        self.serve("")
        for reload in self.by_signal, self.by_call:
            self.configure("RATE_LIMIT_WRITES = 1\nRATE_LIMIT_WRITE_BURST = 1\n")
            reload()
            until(self.is_limited, "more than a write in a second is refused")
            limits.write_text("default writes=1000000\n")
            self.configure(f"RATE_LIMIT_WRITES = 1\nRATE_LIMIT_WRITE_BURST = 1\nRATE_LIMITS_FILE = {limits}\n")
            reload()
            for _ in range(50):
                self.put()
            limits.write_text("default writes=1:1\n")
            reload()
            until(self.is_limited, "the file has something else in it")
            self.configure("")
            reload()
            for _ in range(50):
                self.put()

    def test_what_an_administrator_set_is_forgotten(self):
        self.serve("")
        self.admin.SetRateLimit(admin_pb2.SetRateLimitRequest(user=b"default", writes_per_second=1, write_burst=1),
                                timeout=CALL_S)
        until(self.is_limited, "more than a write in a second is refused")
        self.by_call()
        for _ in range(50):
            self.put()

    def test_cache(self):
        self.serve("CACHE_CAPACITY = 64MiB\n")
        self.fill()
        self.read()
        self.assertGreater(self.stats()["cache_bytes"], 4 << 20)
        for reload in self.by_signal, self.by_call:
            self.configure("CACHE_CAPACITY = 1MiB\n")
            reload()
            self.assertLessEqual(self.stats()["cache_bytes"], 1 << 20)
            self.read()
            self.assertLessEqual(self.stats()["cache_bytes"], 1 << 20)
            self.configure("CACHE_CAPACITY = 32MiB\n")
            reload()
            self.read()
            misses = self.stats()["cache_misses"]
            self.read()
            self.assertEqual(self.stats()["cache_misses"], misses, "everything is in the larger one")

    def test_compaction_rate(self):
        self.serve("COMPACTION_RATE = 1B\nCOMPACTION_THRESHOLD = 64\n")
        for reload in self.by_signal, self.by_call:
            self.fill()
            self.fill()
            merged = self.stats()["compactions"]
            compact = self.admin.Compact.future(admin_pb2.CompactRequest(), timeout=CALL_S)
            until(lambda: self.metrics()["varve_compaction_running"] == "1", "a merge is under way")
            self.put()
            self.flush()
            self.assertFalse(compact.done())
            self.assertEqual(self.stats()["compactions"], merged)
            self.configure("COMPACTION_THRESHOLD = 64\n")
            reload()
            compact.result(timeout=CALL_S)
            self.configure("COMPACTION_RATE = 1B\nCOMPACTION_THRESHOLD = 64\n")
            reload()

    def test_backup_rate(self):
        (self.work / "backups").mkdir()
        common = f"BACKUP_DIR = {self.work / 'backups'}\n"
        self.serve(common + "BACKUP_RATE = 1B\n")
        self.fill()
        for number, reload in enumerate((self.by_signal, self.by_call)):
            request = admin_pb2.BackupRequest(name=b"b%d" % number)
            self.fails(grpc.StatusCode.DEADLINE_EXCEEDED, self.admin.Backup, request, timeout=1)
            self.configure(common + "BACKUP_RATE = 0\n")
            reload()

            def backup():  # the one that was given up may still be on its way out
                try:
                    return self.admin.Backup(request, timeout=CALL_S)
                except grpc.RpcError as e:
                    self.assertIn(reason(e), ("ALREADY_RUNNING", "EXISTS"), e.details())
            until(backup, "a backup as fast as it goes")
            self.configure(common + "BACKUP_RATE = 1B\n")
            reload()

    def test_tokens(self):
        one, two = (secrets.token_hex(32) for _ in range(2))
        as_one, as_two = ([("authorization", f"Bearer {token}")] for token in (one, two))
        first, second = self.work / "first", self.work / "second"
        first.write_text(line("alice", one, "read,write,admin"))
        second.write_text(line("bob", two, "read,write,admin"))
        self.serve("")
        self.put()
        self.configure(f"TOKENS_FILE = {first}\n")
        self.by_signal()
        self.fails(grpc.StatusCode.UNAUTHENTICATED, self.put)
        self.put(metadata=as_one)
        self.configure(f"TOKENS_FILE = {second}\n")
        self.fails(grpc.StatusCode.UNAUTHENTICATED, self.by_call)
        self.assertEqual(self.by_call(metadata=as_one).changed, ["TOKENS_FILE"])
        self.fails(grpc.StatusCode.UNAUTHENTICATED, self.put, metadata=as_one)
        self.put(metadata=as_two)
        second.write_text(line("bob", two, "read"))
        self.by_signal()
        self.fails(grpc.StatusCode.PERMISSION_DENIED, self.put, metadata=as_two)
        self.fails(grpc.StatusCode.PERMISSION_DENIED, self.by_call, metadata=as_two)
        self.configure("")
        self.by_signal()
        self.assertIn("SIGHUP: a restart is needed for TOKENS_FILE", self.server.stderr())
        self.fails(grpc.StatusCode.UNAUTHENTICATED, self.put)

    def test_certificates_of_other_files(self):
        old, new, clients = (Authority(self.work, name) for name in ("old", "new", "clients"))
        pairs = [authority.issue("varved") for authority in (old, new)]
        texts = [f"TLS_CERT = {cert}\nTLS_KEY = {key}\n" for cert, key in pairs]

        def serves(authority):
            self.connect(grpc.ssl_channel_credentials(authority.ca.read_bytes()))
            self.put()
        self.serve(texts[0])
        serves(old)
        self.configure(texts[1].replace(str(pairs[1][1]), str(pairs[0][1])))
        error = self.fails(grpc.StatusCode.FAILED_PRECONDITION, self.by_call)
        self.assertIn("TLS_KEY", error.details())
        serves(old)
        self.configure(texts[1])
        self.assertEqual(self.by_call().changed, ["TLS_CERT", "TLS_KEY"])
        serves(new)
        self.connect(grpc.ssl_channel_credentials(old.ca.read_bytes()))
        self.fails(grpc.StatusCode.UNAVAILABLE, self.put)
        self.configure(texts[0])
        self.by_signal()
        serves(old)
        self.configure(texts[0] + f"TLS_CLIENT_CA = {clients.ca}\nCERTIFICATE_ROLES = read\n")
        answer = self.by_call()
        self.assertEqual((answer.changed, answer.restart_needed), ([], ["TLS_CLIENT_CA", "CERTIFICATE_ROLES"]))
        self.configure("")
        self.assertEqual(self.by_call().restart_needed, ["TLS_CERT", "TLS_KEY"])
        serves(old)

    # ---- as a whole ----

    def test_one_bad_key_among_good_ones(self):
        self.serve("LOG_LEVEL = info\n")
        state = "varve_config_reload_success"
        started = self.metrics()
        self.assertEqual(started[state], "1")
        good = "RATE_LIMIT_WRITES = 1\nRATE_LIMIT_WRITE_BURST = 1\nCACHE_CAPACITY = 1MiB\n"
        words = f"{self.file}:4: MEMTABLE_SIZE = 1KB: allowed is a size from 64KiB to 16GiB"
        self.configure(good + "MEMTABLE_SIZE = 1KB\n")
        self.assertRegex(self.by_signal(good=False), "ERROR.*" + re.escape(words))
        error = self.fails(grpc.StatusCode.FAILED_PRECONDITION, self.by_call)
        self.assertEqual(reason(error), "BAD_CONFIGURATION")
        self.assertIn(words, error.details())
        self.assertEqual(self.metrics()[state], "0")
        self.assertEqual(self.metrics()[state + "_timestamp_seconds"], started[state + "_timestamp_seconds"])
        for _ in range(20):
            self.put()
        self.configure(good)
        self.assertEqual(self.by_call().changed, ["RATE_LIMIT_WRITES", "RATE_LIMIT_WRITE_BURST", "CACHE_CAPACITY"])
        until(self.is_limited, "what was good applies now")
        self.assertEqual(self.metrics()[state], "1")
        then = float(started[state + "_timestamp_seconds"])
        until(lambda: self.by_call() and float(self.metrics()[state + "_timestamp_seconds"]) > then, "a later time")
        self.file.unlink()
        self.assertIn(str(self.file), self.fails(grpc.StatusCode.FAILED_PRECONDITION, self.by_call).details())

    def test_precedence_stays(self):
        self.serve("", "--rate-limit-writes=1", "--rate-limit-write-burst=1", env={"VARVE_CACHE_CAPACITY": "1MiB"})
        self.configure("RATE_LIMIT_WRITES = 0\nCACHE_CAPACITY = 64MiB\nRATE_LIMIT_READS = 1000000\n")
        self.assertEqual(self.by_call().changed, ["RATE_LIMIT_READS"])
        self.by_signal()
        until(self.is_limited, "the flag holds")

    def test_what_needs_a_restart_is_named_and_does_not_stop_the_rest(self):
        self.serve("", "--rpc-threads=3")
        text = ("MEMTABLE_SIZE = 1MiB\nLISTEN = 127.0.0.1:1\nRPC_THREADS = 2\nLOG_LEVEL = debug\nDRAIN_TIMEOUT = 11s\n"
                f"DATA = {self.work / 'other'}\n")
        self.configure(text)
        answer = self.by_call()
        self.assertEqual((answer.changed, answer.restart_needed), (["LOG_LEVEL"], ["DRAIN_TIMEOUT", "MEMTABLE_SIZE"]))
        self.by_signal()
        self.assertIn("SIGHUP: a restart is needed for DRAIN_TIMEOUT, MEMTABLE_SIZE", self.server.stderr())
        self.assertEqual(self.server.stop(), 0)
        self.serve(text, "--rpc-threads=3")
        self.assertEqual(self.by_call().restart_needed, [])

    def test_a_signal_before_there_is_a_server_is_not_lost(self):
        with Varved(self.work / "primary") as primary:
            address = primary.address
            self.assertEqual(primary.stop(), 0)
        self.configure("LOG_LEVEL = info\n")
        self.server = Varved(self.work / "data", f"--config={self.file}", f"--follow={address}", wait=False)
        self.addCleanup(self.server.__exit__, None)
        until(lambda: "there is no primary to get a copy from" in self.server.stderr(), "it looks for a primary")
        self.configure("RATE_LIMIT_READS = 7\n")
        self.server.process.send_signal(signal.SIGHUP)
        with Varved(self.work / "primary", listen=(address,)):
            self.server.await_ready()
            until(lambda: "SIGHUP: configuration and files read again; changed: RATE_LIMIT_READS" in self.server.stderr(),
                  "the file is read once it serves")
            self.assertEqual(self.server.stop(), 0)

    # ---- beside calls ----

    def test_reloads_under_load(self):
        texts = ["CACHE_CAPACITY = 1MiB\nLOG_FORMAT = json\n", "CACHE_CAPACITY = 16MiB\nACCESS_LOG_SAMPLE = 0.1\n",
                 "COMPACTION_RATE = 1MiB\nRATE_LIMIT_READS = 10000000\nSLOW_CALL_THRESHOLD = 0us\n"]
        self.serve(texts[0], "--memtable-size=256KiB")
        self.fill()
        stop, failures, calls = threading.Event(), [], [0] * 3

        def load(number):
            try:
                while not stop.is_set():
                    key = b"%06d" % (calls[number] * 7919 % 2000)
                    self.assertEqual(len(self.get(key)), 2000)
                    self.put(key, secrets.token_bytes(2000))
                    calls[number] += 1
            except Exception as e:  # of any kind: the test is to say so
                failures.append(e)
        threads = [threading.Thread(target=load, args=(number,)) for number in range(len(calls))]
        for thread in threads:
            thread.start()
        for i in range(60):
            self.configure(texts[i % len(texts)])
            self.server.process.send_signal(signal.SIGHUP)
            self.by_call()
        for number in range(len(calls)):
            until(lambda: calls[number] > 20 or failures, "calls are answered")
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(self.server.stop(), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
