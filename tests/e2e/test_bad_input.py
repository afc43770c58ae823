"""Bad input gets a clear status with its reason, changes nothing, and does no harm to others."""

import os
import socket
import subprocess
import unittest

import grpc
from grpc_status import rpc_status
from google.rpc import error_details_pb2

import varved
from varved import HERE, Varved
from varve.v1 import kv_pb2, kv_pb2_grpc

MAX_VALUE = 64 << 10
CALL_S = 20

MALFORMED = [
    b"\xff",  # a tag that never ends
    b"\x0a\x7fa",  # a length beyond the end
    b"\x0b",  # a group
    b"\x0a\xff\xff\xff\xff\x0f",  # a length of 4 GiB
    b"\x00\x01",  # field 0
    b"\x0a" * 5000,
]


class BadInput(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Varved(varved.work_dir("bad-input") / "data", f"--MAX_VALUE_SIZE={MAX_VALUE}",
                            "--MAX_BATCH_SIZE=1MiB")
        cls.addClassCleanup(cls.server.__exit__, None)
        cls.channel = grpc.insecure_channel(cls.server.address, options=[
            ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)])
        cls.addClassCleanup(cls.channel.close)
        cls.kv = kv_pb2_grpc.KVStub(cls.channel)

    def setUp(self):
        """A witness: after each test it is as it was, and no write has happened in between."""
        response = self.kv.Put(kv_pb2.PutRequest(key=b"witness", value=b"intact"), timeout=CALL_S)
        self.lsn = response.lsn

    def tearDown(self):
        got = self.kv.Get(kv_pb2.GetRequest(key=b"witness"), timeout=CALL_S)
        self.assertEqual((got.found, got.value, got.lsn), (True, b"intact", self.lsn))
        self.assertEqual(self.kv.Get(kv_pb2.GetRequest(key=b"bystander"), timeout=CALL_S).found, False)
        response = self.kv.Put(kv_pb2.PutRequest(key=b"witness", value=b"intact"), timeout=CALL_S)
        self.assertEqual(response.lsn, self.lsn + 1, "LSNs are contiguous: something was written")
        self.assertIsNone(self.server.process.poll())

    def refused(self, code, reason, method, request):
        with self.assertRaises(grpc.RpcError) as caught:
            method(request, timeout=CALL_S)
        e = caught.exception
        self.assertEqual(e.code(), code, e.details())
        self.assertTrue(e.details(), "no words")
        if reason is None:
            return
        status = rpc_status.from_call(e)
        self.assertIsNotNone(status, "no google.rpc.Status")
        info = error_details_pb2.ErrorInfo()
        self.assertTrue([any_ for any_ in status.details if any_.Unpack(info)], "no ErrorInfo")
        self.assertEqual((info.domain, info.reason), ("varve", reason))

    def invalid(self, reason, method, request):
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, reason, method, request)

    def raw(self, name):
        return self.channel.unary_unary(name)

    def every_call_with(self, key):
        yield self.kv.Get, kv_pb2.GetRequest(key=key)
        yield self.kv.Put, kv_pb2.PutRequest(key=key, value=b"v")
        yield self.kv.Delete, kv_pb2.DeleteRequest(key=key)
        bystander = kv_pb2.Op(put=kv_pb2.PutOp(key=b"bystander", value=b"v"))
        for op in (kv_pb2.Op(put=kv_pb2.PutOp(key=key, value=b"v")), kv_pb2.Op(delete=kv_pb2.DeleteOp(key=key))):
            yield self.kv.Write, kv_pb2.WriteRequest(ops=[bystander, op])

    def test_an_empty_key(self):
        for method, request in self.every_call_with(b""):
            self.invalid("KEY_EMPTY", method, request)

    def test_a_key_that_is_too_long(self):
        for method, request in self.every_call_with(b"k" * 65536):
            self.invalid("KEY_TOO_LONG", method, request)

    def test_the_longest_key_and_the_largest_value_are_fine(self):
        key, value = os.urandom(65535), os.urandom(MAX_VALUE)
        self.kv.Put(kv_pb2.PutRequest(key=key, value=value), timeout=CALL_S)
        self.assertEqual(self.kv.Get(kv_pb2.GetRequest(key=key), timeout=CALL_S).value, value)
        self.lsn = self.kv.Put(kv_pb2.PutRequest(key=b"witness", value=b"intact"), timeout=CALL_S).lsn

    def test_a_value_that_is_too_large(self):
        self.invalid("VALUE_TOO_LARGE", self.kv.Put, kv_pb2.PutRequest(key=b"k", value=bytes(MAX_VALUE + 1)))
        ops = [kv_pb2.Op(put=kv_pb2.PutOp(key=b"bystander", value=b"v")),
               kv_pb2.Op(put=kv_pb2.PutOp(key=b"k", value=bytes(MAX_VALUE + 1)))]
        self.invalid("VALUE_TOO_LARGE", self.kv.Write, kv_pb2.WriteRequest(ops=ops))

    def test_a_batch_that_is_too_large(self):
        ops = [kv_pb2.Op(put=kv_pb2.PutOp(key=b"bystander", value=b"v"))]
        ops += [kv_pb2.Op(put=kv_pb2.PutOp(key=b"k%d" % i, value=bytes(MAX_VALUE - 100))) for i in range(16)]
        self.invalid("BATCH_TOO_LARGE", self.kv.Write, kv_pb2.WriteRequest(ops=ops + [
            kv_pb2.Op(put=kv_pb2.PutOp(key=b"last", value=bytes(4000)))]))

    def test_a_message_far_beyond_what_is_taken(self):
        self.refused(grpc.StatusCode.RESOURCE_EXHAUSTED, None, self.kv.Put,
                     kv_pb2.PutRequest(key=b"k", value=bytes(64 << 20)))

    def test_an_empty_batch_and_an_operation_that_is_none(self):
        self.invalid("BATCH_EMPTY", self.kv.Write, kv_pb2.WriteRequest())
        ops = [kv_pb2.Op(put=kv_pb2.PutOp(key=b"bystander", value=b"v")), kv_pb2.Op()]
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, None, self.kv.Write, kv_pb2.WriteRequest(ops=ops))

    def test_a_durability_that_is_none(self):
        self.invalid("BAD_DURABILITY", self.kv.Put, kv_pb2.PutRequest(key=b"bystander", value=b"v", durability=7))
        self.invalid("BAD_DURABILITY", self.kv.Delete, kv_pb2.DeleteRequest(key=b"witness", durability=7))

    def test_a_snapshot_that_nobody_opened(self):
        for snapshot in (1, 2 ** 64 - 1):
            self.refused(grpc.StatusCode.NOT_FOUND, "SNAPSHOT_UNKNOWN", self.kv.Get,
                         kv_pb2.GetRequest(key=b"witness", snapshot_id=snapshot))
            self.refused(grpc.StatusCode.NOT_FOUND, "SNAPSHOT_UNKNOWN", self.kv.MultiGet,
                         kv_pb2.MultiGetRequest(keys=[b"witness"], snapshot_id=snapshot))

    def test_conditions_that_expect_nothing(self):
        ops = [kv_pb2.Op(put=kv_pb2.PutOp(key=b"bystander", value=b"v"))]
        for condition in (kv_pb2.Condition(key=b"bystander"), kv_pb2.Condition(key=b"bystander", absent=False)):
            self.invalid("CONDITION_EMPTY", self.kv.Write, kv_pb2.WriteRequest(ops=ops, conditions=[condition]))
        self.invalid("BATCH_EMPTY", self.kv.Write,
                     kv_pb2.WriteRequest(conditions=[kv_pb2.Condition(key=b"bystander", absent=True)]))

    def test_malformed_messages(self):
        for method in ("Get", "Put", "Delete", "Write"):
            for message in MALFORMED:
                with self.subTest(method=method, message=message[:8].hex()):
                    self.invalid("MALFORMED", self.raw(f"/varve.v1.KV/{method}"), message)

    def test_unknown_methods_and_services(self):
        for name in ("/varve.v1.KV/Nothing", "/varve.v1.Nothing/Get", "/x", "/varve.v1.KV/", "/varve.v1.KV/Get/"):
            with self.subTest(name=name):
                self.refused(grpc.StatusCode.UNIMPLEMENTED, None, self.raw(name), b"\x0a\x01k")

    def closed_after(self, sent):
        """Send bytes; the server must close the connection by itself, having said at most a little."""
        host, port = self.server.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            try:
                connection.sendall(sent)
                said = b""
                while len(said) < 65536:
                    more = connection.recv(4096)
                    if not more:
                        return said
                    said += more
            except ConnectionResetError:
                return b""
        self.fail("it talks on and on")

    def test_http_1_1_on_the_port(self):
        said = self.closed_after(b"GET / HTTP/1.1\r\nHost: varve\r\n\r\n")
        self.assertNotIn(b"200 OK", said)
        self.closed_after(b"POST /varve.v1.KV/Put HTTP/1.1\r\nHost: varve\r\nContent-Length: 5\r\n\r\nhello")

    def test_garbage_on_the_port(self):
        self.closed_after(bytes(range(256)) * 16)
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        self.closed_after(preface + b"\xff" * 4096)

    def test_everything_through_the_node_client(self):
        env = {**os.environ, "E2E_DIR": str(varved.BUILD)}
        result = subprocess.run(["node", HERE / "bad_input.mjs", self.server.address, str(MAX_VALUE)], env=env,
                                capture_output=True, text=True, timeout=120)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
