"""What stands beside the data: addresses, health, reflection, and how the server ends."""

import collections
import contextlib
import signal
import threading
import time
import unittest

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import h2
import varved
from varved import Varved, until
from varve.v1 import kv_pb2, kv_pb2_grpc

CALL_S = 20
SERVING = health_pb2.HealthCheckResponse.SERVING


class Service(unittest.TestCase):
    def setUp(self):
        self.work = varved.work_dir("service")
        self.data = self.work / "data"

    def serve(self, *flags, **kwargs):
        server = Varved(self.data, *flags, **kwargs)
        self.addCleanup(server.__exit__, None)
        return server

    def channel(self, address):
        channel = grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)])
        self.addCleanup(channel.close)
        return channel

    def test_port_zero_picks_one_and_says_which(self):
        server = self.serve(listen=("127.0.0.1:0", "127.0.0.1:0"))
        ports = [int(address.rsplit(":", 1)[1]) for address in server.addresses]
        self.assertTrue(all(0 < port < 65536 for port in ports))
        self.assertNotEqual(*ports)
        for address in server.addresses:
            self.assertTrue(address.startswith("127.0.0.1:"))
            kv_pb2_grpc.KVStub(self.channel(address)).Put(kv_pb2.PutRequest(key=b"k", value=b"v"), timeout=CALL_S)

    def test_a_unix_socket_beside_tcp(self):
        socket = f"unix:{self.work}/socket"
        server = self.serve(listen=("127.0.0.1:0", socket))
        self.assertIn(socket, server.addresses)
        tcp = next(address for address in server.addresses if address != socket)
        kv_pb2_grpc.KVStub(self.channel(socket)).Put(kv_pb2.PutRequest(key=b"k", value=b"over a socket"),
                                                     timeout=CALL_S)
        got = kv_pb2_grpc.KVStub(self.channel(tcp)).Get(kv_pb2.GetRequest(key=b"k"), timeout=CALL_S)
        self.assertEqual(got.value, b"over a socket")
        # After SIGKILL the socket file is still there; the next start takes its place.
        server.kill()
        self.serve(listen=(socket,))
        got = kv_pb2_grpc.KVStub(self.channel(socket)).Get(kv_pb2.GetRequest(key=b"k"), timeout=CALL_S)
        self.assertEqual(got.value, b"over a socket")

    def test_health(self):
        health = health_pb2_grpc.HealthStub(self.channel(self.serve().address))
        for service in ("", "varve.v1.KV"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL_S)
            self.assertEqual(answer.status, SERVING)
            watch = health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=CALL_S)
            self.assertEqual(next(watch).status, SERVING)
            watch.cancel()
        with self.assertRaises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=CALL_S)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="no.Such"), timeout=CALL_S)
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        watch.cancel()

    def test_reflection_of_v1alpha_is_enough_to_call(self):
        """With what the server tells about itself and nothing else, as grpcurl does."""
        channel = self.channel(self.serve().address)
        database = ProtoReflectionDescriptorDatabase(channel)
        self.assertLessEqual({"varve.v1.KV", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                              "grpc.reflection.v1alpha.ServerReflection"}, set(database.get_services()))
        pool = descriptor_pool.DescriptorPool(database)
        service = pool.FindServiceByName("varve.v1.KV")
        known = kv_pb2.DESCRIPTOR.services_by_name["KV"]
        fields = lambda message: [(f.name, f.number, f.type) for f in message.fields]
        self.assertEqual([(m.name, m.client_streaming, m.server_streaming) for m in service.methods],
                         [(m.name, m.client_streaming, m.server_streaming) for m in known.methods])
        for method, other in zip(service.methods, known.methods):
            self.assertEqual(fields(method.input_type), fields(other.input_type))
            self.assertEqual(fields(method.output_type), fields(other.output_type))

    def test_reflection_of_v1_answers_the_same(self):
        channel = self.channel(self.serve().address)
        alpha = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        # The messages of both versions are the same on the wire.
        v1 = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                   request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                                   response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)
        requests = [reflection_pb2.ServerReflectionRequest(list_services=""),
                    reflection_pb2.ServerReflectionRequest(file_containing_symbol="varve.v1.KV"),
                    reflection_pb2.ServerReflectionRequest(file_containing_symbol="varve.v1.KV.Put"),
                    reflection_pb2.ServerReflectionRequest(file_by_filename="varve/v1/kv.proto"),
                    reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.Such"),
                    reflection_pb2.ServerReflectionRequest(file_by_filename="no/such.proto")]
        answers = list(v1(iter(requests), timeout=CALL_S))
        self.assertEqual(answers, list(alpha(iter(requests), timeout=CALL_S)))
        services = {s.name for s in answers[0].list_services_response.service}
        self.assertIn("varve.v1.KV", services)
        for answer in answers[1:4]:
            names = [descriptor_pb2.FileDescriptorProto.FromString(file).name
                     for file in answer.file_descriptor_response.file_descriptor_proto]
            self.assertIn("varve/v1/kv.proto", names)
        for answer in answers[4:]:
            self.assertEqual(answer.error_response.error_code, grpc.StatusCode.NOT_FOUND.value[0])

    def drain(self, how):
        """
        Signal a server with hundreds of writes under way; every one of them must get an answer: done, or refused
        with nothing written.
        """
        # What is not done within DRAIN_TIMEOUT is cancelled: none is to come so far, however busy the machine is.
        server = self.serve("--drain-timeout=60s")
        kv = kv_pb2_grpc.KVStub(self.channel(server.address))
        answered = threading.Semaphore(0)
        calls = []
        for number in range(400):
            call = kv.Put.future(kv_pb2.PutRequest(key=b"%04d" % number, value=bytes(2000)), timeout=60)
            call.add_done_callback(lambda _: answered.release())
            calls.append(call)
        for _ in range(20):
            self.assertTrue(answered.acquire(timeout=60))
        server.process.send_signal(how)
        for _ in range(len(calls) - 20):
            self.assertTrue(answered.acquire(timeout=60), "a call got no answer")
        self.assertEqual(server.wait(), 0, server.stderr())
        codes = collections.Counter(str(call.code()) for call in calls)
        print(dict(codes), flush=True)
        self.assertLessEqual(set(codes), {"StatusCode.OK", "StatusCode.UNAVAILABLE"})
        self.assertGreaterEqual(codes["StatusCode.OK"], 20)
        kv = kv_pb2_grpc.KVStub(self.channel(self.serve().address))
        for number, call in enumerate(calls):
            found = kv.Get(kv_pb2.GetRequest(key=b"%04d" % number), timeout=CALL_S).found
            self.assertEqual(found, call.code() == grpc.StatusCode.OK, number)

    def test_sigterm_drains(self):
        self.drain(signal.SIGTERM)

    def test_sigint_drains(self):
        self.drain(signal.SIGINT)

    def test_an_idle_client_does_not_hold_up_the_end(self):
        server = self.serve("--drain-timeout=60s")
        channel = self.channel(server.address)
        grpc.channel_ready_future(channel).result(timeout=CALL_S)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        self.assertEqual(next(watch).status, SERVING)
        statuses = []

        def follow():
            try:
                statuses.extend(answer.status for answer in watch)
            except grpc.RpcError as e:
                statuses.append(e.code())

        follower = threading.Thread(target=follow)
        follower.start()
        server.process.terminate()
        self.assertEqual(server.wait(), 0, server.stderr())
        follower.join(timeout=60)
        self.assertFalse(follower.is_alive(), "the watch was never ended")
        self.assertEqual(statuses[0], health_pb2.HealthCheckResponse.NOT_SERVING)

    def test_a_client_that_goes_on_asking_does_not_hold_up_the_end(self):
        """Neither heeds it the GOAWAY, nor answers it the ping behind that; what it asks is answered in a drain, too."""
        server = self.serve("--DRAIN_TIMEOUT=60s")
        streams = []
        asking = [h2.Connection(server.address) for _ in range(4)]

        def ask(connection):
            with contextlib.suppress(h2.Closed, ConnectionError):
                while True:
                    streams.append(connection.answers([connection.call("/varve.v1.Admin/Status", b"")
                                                       for _ in range(20)]))

        threads = [threading.Thread(target=ask, args=(connection,)) for connection in asking]
        for thread in threads:
            thread.start()
        until(lambda: len(streams) > 40, "answers")
        start = time.monotonic()
        self.assertEqual(server.stop(), 0)
        self.assertLess(time.monotonic() - start, 30)
        for thread, connection in zip(threads, asking):
            thread.join()
            connection.close()

    def test_a_second_server_does_not_take_the_port(self):
        first = self.serve()
        code, stderr = varved.refused(self.work / "other", listen=(first.address,))
        self.assertEqual(code, 1)
        self.assertIn(first.address, stderr)

    def test_stdout_says_nothing_but_the_addresses(self):
        server = self.serve()
        self.assertEqual(server.stop(), 0)
        rest = []
        until(lambda: rest.append(server._lines.get(timeout=30)) or rest[-1] is None, "the end of stdout")
        self.assertEqual(rest, [None])


if __name__ == "__main__":
    unittest.main(verbosity=2)
