"""Writes that carry (client_id, sequence) are applied once, whatever becomes of the server in between; and the log
says what happened to calls."""

import json
import random
import re
import unittest

import grpc
from grpc_status import rpc_status
from google.rpc import error_details_pb2

import varved
from varved import Varved, until
from varve.v1 import kv_pb2, kv_pb2_grpc

CALL_S = 30
CLIENT = 0xC11E
WINDOW = 256


def stub(test, server):
    channel = grpc.insecure_channel(server.address, options=[("grpc.enable_retries", 0)])
    test.addCleanup(channel.close)
    return kv_pb2_grpc.KVStub(channel)


def put(kv, sequence, key=None, value=b"value", durability=kv_pb2.DURABILITY_SYNC):
    request = kv_pb2.PutRequest(key=key or b"key%d" % sequence, value=value, durability=durability,
                                client_id=CLIENT, sequence=sequence)
    return kv.Put(request, timeout=CALL_S).lsn


class Retry(unittest.TestCase):
    def setUp(self):
        self.data = varved.work_dir("retry") / "data"

    def start(self, *flags):
        server = Varved(self.data, *flags)
        self.addCleanup(server.__exit__, None)
        return server, stub(self, server)

    def test_a_kill_in_the_middle_applies_nothing_twice(self):
        """A client that hears of no answer sends everything again, after each kill: the counters, each a chain of
        conditional writes, come out as if there had been no kill, and every answer names the LSN of the first."""
        rng = random.Random(varved.seed())
        answers, lsn = {}, 0
        sequence = 0
        for round_ in range(5):
            server, kv = self.start("--MEMTABLE_SIZE=256KiB", "--WAL_SEGMENT_SIZE=256KiB")
            for old in range(max(1, sequence - WINDOW + 1), sequence + 1):
                self.assertEqual(put(kv, old, value=b"not to be seen"), answers[old], f"sequence {old}")
            futures = {}
            for _ in range(40 + rng.randrange(40)):
                sequence += 1
                request = kv_pb2.PutRequest(key=b"key%d" % sequence, value=b"%d" % sequence + b"." * 4000,
                                            client_id=CLIENT, sequence=sequence)
                futures[sequence] = kv.Put.future(request, timeout=CALL_S)
            taken = rng.randrange(len(futures))
            for n in list(futures)[:taken]:
                answers[n] = futures[n].result().lsn
            server.kill()
            server, kv = self.start()
            for n in futures:
                again = put(kv, n, value=b"%d" % n + b"." * 4000)
                self.assertEqual(answers.setdefault(n, again), again, f"sequence {n}")
            # One version of each, and nothing else, has been written: LSNs are contiguous.
            lsn += len(futures)
            self.assertEqual(sorted(answers.values()), list(range(1, lsn + 1)))
            self.assertEqual(server.stop(), 0)
        server, kv = self.start()
        for n in range(1, sequence + 1):
            got = kv.Get(kv_pb2.GetRequest(key=b"key%d" % n), timeout=CALL_S)
            self.assertEqual((got.lsn, got.value[:-4000]), (answers[n], b"%d" % n))

    def test_writes_and_deletes_have_names_and_a_condition_that_held_is_not_asked_again(self):
        server, kv = self.start()
        create = kv_pb2.WriteRequest(ops=[kv_pb2.Op(put=kv_pb2.PutOp(key=b"k", value=b"1"))],
                                     conditions=[kv_pb2.Condition(key=b"k", absent=True)],
                                     client_id=CLIENT, sequence=1)
        first = kv.Write(create, timeout=CALL_S)
        self.assertTrue(first.applied)
        server.kill()
        server, kv = self.start()
        self.assertEqual(kv.Write(create, timeout=CALL_S), first)
        create.sequence = 2
        self.assertFalse(kv.Write(create, timeout=CALL_S).applied, "another name is another write")
        delete = kv_pb2.DeleteRequest(key=b"k", client_id=CLIENT, sequence=3)
        gone = kv.Delete(delete, timeout=CALL_S)
        self.assertEqual(kv.Delete(delete, timeout=CALL_S), gone)
        self.assertEqual(gone.lsn, first.lsn + 1)

    def refused(self, code, reason, call):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        self.assertEqual(caught.exception.code(), code)
        info = error_details_pb2.ErrorInfo()
        details = [d for d in rpc_status.from_call(caught.exception).details if d.Is(info.DESCRIPTOR)]
        self.assertTrue(details and details[0].Unpack(info))
        self.assertEqual((info.domain, info.reason), ("varve", reason))

    def test_what_is_older_than_the_window_is_refused_with_its_reason(self):
        server, kv = self.start()
        for sequence in range(1, WINDOW + 2):
            put(kv, sequence, durability=kv_pb2.DURABILITY_ASYNC)
        self.refused(grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_TOO_OLD", lambda: put(kv, 1))
        self.assertEqual(put(kv, 2), 2)
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "BAD_SEQUENCE", lambda: put(kv, 0, key=b"k"))


class Log(unittest.TestCase):
    def lines(self, server, event):
        return [line for line in server.stderr().splitlines() if f'"event":"{event}"' in line or f" {event} " in line]

    def test_json_lines_say_what_became_of_each_call(self):
        with Varved(varved.work_dir("log") / "data", "--LOG_FORMAT=json", "--ACCESS_LOG_SAMPLE=1",
                    "--SLOW_CALL_THRESHOLD=0us") as server:
            kv = stub(self, server)
            kv.Put(kv_pb2.PutRequest(key=b"k", value=b"v"), timeout=CALL_S, metadata=[("x-request-id", "req-42")])
            with self.assertRaises(grpc.RpcError):
                kv.Get(kv_pb2.GetRequest(), timeout=CALL_S, metadata=[("x-request-id", "two words")])
            calls = [json.loads(line) for line in until(
                lambda: len(self.lines(server, "call")) >= 2 and self.lines(server, "call"), "two lines of calls")]
            self.assertEqual(server.stop(), 0)
            for line in server.stderr().splitlines():
                self.assertLessEqual({"ts", "level", "event"}, json.loads(line).keys(), line)
        first, second = calls[:2]
        self.assertEqual((first["method"], first["code"], first["user"], first["request_id"]),
                         ("/varve.v1.KV/Put", "OK", "default", "req-42"))
        self.assertGreater(first["us"], 0)
        self.assertTrue(first["peer"].startswith("ipv4:127.0.0.1"), first)
        self.assertEqual((second["method"], second["code"]), ("/varve.v1.KV/Get", "INVALID_ARGUMENT"))
        self.assertNotIn("request_id", second)

    def test_text_lines_of_slow_calls_name_the_phases(self):
        with Varved(varved.work_dir("log") / "data", "--SLOW_CALL_THRESHOLD=1us") as server:
            kv = stub(self, server)
            kv.Put(kv_pb2.PutRequest(key=b"k", value=b"v"), timeout=CALL_S)
            line = until(lambda: self.lines(server, "slow_call"), "a line")[0]
        self.assertRegex(line, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARN  slow_call method=/varve\.v1\.KV/Put "
                               r"code=OK user=default us=\d+ queue_us=\d+ wal_us=\d+ memtable_us=\d+ block_us=0 "
                               r"block_reads=0 bytes_in=\d+ bytes_out=\d+ peer=ipv4:127\.0\.0\.1:\d+$")
        phases = {key: int(value) for key, value in re.findall(r" (\w+)=(\d+)\b", line)}
        self.assertLessEqual(phases["queue_us"] + phases["wal_us"] + phases["memtable_us"], phases["us"])

    def test_a_flood_of_lines_is_cut_and_counted(self):
        calls = 300
        with Varved(varved.work_dir("log") / "data", "--LOG_FORMAT=json", "--ACCESS_LOG_SAMPLE=1",
                    "--LOG_LINES_PER_SECOND=5") as server:
            kv = stub(self, server)
            for _ in range(calls):
                kv.Get(kv_pb2.GetRequest(key=b"k"), timeout=CALL_S)
            self.assertEqual(server.stop(), 0)
            shown = len(self.lines(server, "call"))
            dropped = sum(entry["count"] for entry in map(json.loads, self.lines(server, "lines_dropped"))
                          if entry["what"] == "calls")
        self.assertEqual(shown + dropped, calls)
        self.assertGreater(dropped, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
