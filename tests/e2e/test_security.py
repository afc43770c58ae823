"""Who gets in, and how often: TLS, client certificates, tokens, reloads, limits, from a client that is not ours."""

import hashlib
import secrets
import signal
import socket
import subprocess
import time
import unittest

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

import varved
from varved import Varved, refused, until
from varve.v1 import kv_pb2, kv_pb2_grpc

CALL_S = 20
DENIED = grpc.StatusCode.PERMISSION_DENIED
UNKNOWN = grpc.StatusCode.UNAUTHENTICATED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)


class Authority:
    """A CA in a directory of its own, and what it signs."""

    def __init__(self, place, name):
        self.place = place / name
        self.place.mkdir()
        self.ca = self.place / "ca.pem"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 2,
                "-subj", f"/CN={name}", "-keyout", self.place / "ca.key", "-out", self.ca)

    def issue(self, name):
        """(certificate, key) for this name and for localhost."""
        cert, key, request, extra = (self.place / f"{name}.{end}" for end in ("pem", "key", "csr", "ext"))
        extra.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                f"/CN={name}", "-keyout", key, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.place / "ca.key", "-CAcreateserial",
                "-days", 1, "-extfile", extra, "-out", cert)
        return cert, key


def line(user, token, roles):
    return f"{user} sha256:{hashlib.sha256(token.encode()).hexdigest()} {roles}\n"


def reason(error):
    for detail in rpc_status.from_call(error).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""


def retry_s(error):
    for detail in rpc_status.from_call(error).details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.seconds + info.retry_delay.nanos / 1e9
    return None


class Security(unittest.TestCase):
    def setUp(self):
        self.work = varved.work_dir("security")
        self.tokens = self.work / "tokens"
        self.token = secrets.token_hex(32)

    def serve(self, *flags, **kwargs):
        server = Varved(self.work / "data", *flags, **kwargs)
        self.addCleanup(server.__exit__, None)
        return server

    def stub(self, address, ca=None, own=None):
        """A channel of its own; own: (certificate, key)."""
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        if ca:
            cert, key = (path.read_bytes() for path in own) if own else (None, None)
            credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key, cert)
            channel = grpc.secure_channel(address, credentials, options=options)
        else:
            channel = grpc.insecure_channel(address, options=options)
        self.addCleanup(channel.close)
        return kv_pb2_grpc.KVStub(channel)

    def put(self, stub, token=None):
        metadata = [("authorization", f"Bearer {token}")] if token else None
        stub.Put(kv_pb2.PutRequest(key=b"k", value=b"v"), timeout=CALL_S, metadata=metadata)

    def get(self, stub, token=None):
        metadata = [("authorization", f"Bearer {token}")] if token else None
        return stub.Get(kv_pb2.GetRequest(key=b"k"), timeout=CALL_S, metadata=metadata)

    def fails(self, code, call, *args):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*args)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        return caught.exception

    def reload(self, server, words):
        """SIGHUP, and until the log says how it went."""
        before = server.stderr().count(words)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.stderr().count(words) > before, f"the log says '{words}'")

    def test_tokens_and_their_roles(self):
        reader = secrets.token_hex(32)
        self.tokens.write_text("# who may what\n" + line("alice", self.token, "read,write") +
                               line("bob", reader, "read"))
        server = self.serve("--tokens-file", self.tokens)
        stub = self.stub(server.address)
        self.put(stub, self.token)
        self.assertEqual(self.get(stub, reader).value, b"v")
        self.assertEqual(reason(self.fails(DENIED, self.put, stub, reader)), "ROLE_MISSING")
        self.assertEqual(reason(self.fails(UNKNOWN, self.put, stub, "guess")), "TOKEN_INVALID")
        self.assertEqual(reason(self.fails(UNKNOWN, self.put, stub)), "CREDENTIALS_MISSING")
        channel = grpc.insecure_channel(server.address)
        self.addCleanup(channel.close)
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        self.assertEqual(health.status, health_pb2.HealthCheckResponse.SERVING, "health asks for nothing")
        self.assertNotIn(self.token, server.stderr())

    def test_a_reload_takes_all_of_a_file_or_nothing(self):
        self.tokens.write_text(line("alice", self.token, "read,write"))
        server = self.serve("--tokens-file", self.tokens)
        stub = self.stub(server.address)
        self.put(stub, self.token)
        self.tokens.write_text(line("bob", "other", "read") + "carol secret read\n")
        self.reload(server, "nothing is changed: TOKENS_FILE")
        self.put(stub, self.token)
        self.fails(UNKNOWN, self.put, stub, "other")
        self.tokens.write_text(line("bob", "other", "read,write"))
        self.reload(server, "files read again")
        self.put(stub, "other")
        self.fails(UNKNOWN, self.put, stub, self.token)

    def test_a_storm_of_reloads_fails_no_call_and_does_not_stop_the_end(self):
        self.tokens.write_text(line("alice", self.token, "read,write"))
        server = self.serve("--tokens-file", self.tokens)
        stub = self.stub(server.address)
        for _ in range(200):
            server.process.send_signal(signal.SIGHUP)
            self.put(stub, self.token)
        server.process.send_signal(signal.SIGHUP)
        self.assertEqual(server.stop(), 0)

    def test_tls_with_a_token(self):
        ca = Authority(self.work, "servers")
        cert, key = ca.issue("varved")
        self.tokens.write_text(line("alice", self.token, "read,write"))
        server = self.serve("--tokens-file", self.tokens, "--tls-cert", cert, "--tls-key", key,
                            listen=("0.0.0.0:0",))
        address = "localhost:" + server.address.rsplit(":", 1)[1]
        channel = grpc.secure_channel(address, grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(ca.ca.read_bytes()), grpc.access_token_call_credentials(self.token)))
        self.addCleanup(channel.close)
        self.put(kv_pb2_grpc.KVStub(channel))
        self.fails(UNKNOWN, self.put, self.stub(address, ca.ca))
        self.fails(UNAVAILABLE, self.put, self.stub(address), self.token)
        self.fails(UNAVAILABLE, self.put, self.stub(address, Authority(self.work, "others").ca), self.token)

    def test_certificates_are_renewed_without_a_restart(self):
        old, new = Authority(self.work, "old"), Authority(self.work, "new")
        cert, key = self.work / "cert.pem", self.work / "key.pem"

        def install(pair):
            for source, target in zip(pair, (cert, key)):
                target.write_bytes(source.read_bytes())

        install(old.issue("varved"))
        server = self.serve("--tls-cert", cert, "--tls-key", key)
        living = self.stub(server.address, old.ca)
        self.put(living)
        cert.write_text("half of a renewal")
        self.reload(server, "nothing is changed: TLS_CERT")
        self.put(self.stub(server.address, old.ca))
        install(new.issue("varved"))
        self.reload(server, "files read again")
        self.put(self.stub(server.address, new.ca))
        self.fails(UNAVAILABLE, self.put, self.stub(server.address, old.ca))
        self.put(living)
        # And without a signal.
        install(old.issue("varved"))
        until(lambda: "new files are in use" in server.stderr(), "the change is noticed")
        self.put(self.stub(server.address, old.ca))
        self.assertEqual(server.stop(), 0)

    def test_client_certificates(self):
        servers, clients = Authority(self.work, "servers"), Authority(self.work, "clients")
        cert, key = servers.issue("varved")
        self.tokens.write_text("alice certificate read,write\nbob certificate read\n")
        server = self.serve("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", clients.ca,
                            "--tokens-file", self.tokens)
        self.put(self.stub(server.address, servers.ca, clients.issue("alice")))
        bob = self.stub(server.address, servers.ca, clients.issue("bob"))
        self.assertEqual(self.get(bob).value, b"v")
        self.fails(DENIED, self.put, bob)
        self.fails(DENIED, self.get, self.stub(server.address, servers.ca, clients.issue("mallory")))
        self.fails(UNAVAILABLE, self.get, self.stub(server.address, servers.ca, servers.issue("alice")))
        self.fails(UNAVAILABLE, self.get, self.stub(server.address, servers.ca))

    def test_the_command_makes_tokens_and_shows_them(self):
        ca = Authority(self.work, "servers")
        cert, key = ca.issue("varved")

        def varve(*words, code=0, **more):
            result = subprocess.run([varved.VARVE, *map(str, words)], capture_output=True, text=True, timeout=60,
                                    env=varved.environment(more))
            self.assertEqual(result.returncode, code, result.stderr)
            return result

        made = dict(row.split(None, 1) for row in varve("token", "alice b", "read,write").stdout.splitlines())
        self.assertTrue(made["line"].startswith('"alice b" sha256:'))
        self.assertEqual(made["line"], line('"alice b"', made["token"], "read,write").strip())
        self.tokens.write_text(made["line"] + "\n")
        held = self.work / "token"
        held.write_text(made["token"] + "\n")
        server = self.serve("--tokens-file", self.tokens, "--tls-cert", cert, "--tls-key", key)
        at = ("--server", server.address, "--tls-ca", ca.ca)
        varve(*at, "--token-file", held, "put", "k", "v")
        got = varve("get", "k", VARVE_SERVER=server.address, VARVE_SERVER_TLS_CA=str(ca.ca),
                    VARVE_SERVER_TOKEN=made["token"])
        self.assertEqual(got.stdout, "v")
        self.assertIn("UNAUTHENTICATED (CREDENTIALS_MISSING)", varve(*at, "get", "k", code=3).stderr)
        self.assertIn("PERMISSION_DENIED (ROLE_MISSING)",
                      varve(*at, "--token-file", held, "flush", code=3).stderr)
        self.assertIn("none: No such file", varve(*at, "--token-file", self.work / "none", "get", "k", code=3).stderr)

    def test_a_unix_socket_asks_for_tokens_and_keeps_others_out(self):
        path = self.work / "socket"
        self.tokens.write_text(line("alice", self.token, "read,write"))
        server = self.serve("--tokens-file", self.tokens, "--unix-socket-mode=0660", listen=(f"unix:{path}",))
        self.assertEqual(path.stat().st_mode & 0o777, 0o660)
        stub = self.stub(server.address)
        self.put(stub, self.token)
        self.fails(UNKNOWN, self.put, stub)

    def test_a_rate_limit_tells_when_to_come_again(self):
        server = self.serve("--rate-limit-writes=2", "--rate-limit-write-burst=3")
        stub = self.stub(server.address)
        for _ in range(3):
            self.put(stub)

        def limited():
            try:
                self.put(stub)
            except grpc.RpcError as e:
                return e

        error = until(limited, "more than two writes in a second are refused")
        self.assertEqual(error.code(), EXHAUSTED)
        self.assertEqual(reason(error), "RATE_LIMITED")
        wait = retry_s(error)
        self.assertTrue(0 < wait <= 0.5, wait)
        time.sleep(wait)  # what a client does that is told so
        self.put(stub)

    def test_what_does_not_fit_stops_the_start(self):
        ca = Authority(self.work, "servers")
        cert, key = ca.issue("varved")
        _, other_key = ca.issue("other")
        self.tokens.write_text(line("alice", self.token, "read"))
        broken = self.work / "broken"
        broken.write_text("alice token read\n")
        for words, flags, listen in (
                ("needs TLS_CERT", ("--tokens-file", self.tokens), "0.0.0.0:0"),
                ("broken:1", ("--tokens-file", broken), "127.0.0.1:0"),
                ("No such file", ("--tokens-file", self.work / "none"), "127.0.0.1:0"),
                ("not the key of the certificate", ("--tls-cert", cert, "--tls-key", other_key), "127.0.0.1:0"),
                ("each needs the other", ("--tls-cert", cert), "127.0.0.1:0"),
                ("RATE_LIMITS_FILE", ("--rate-limits-file", broken), "127.0.0.1:0")):
            with self.subTest(words):
                code, stderr = refused(self.work / "data", *flags, listen=(listen,))
                self.assertEqual(code, 2, stderr)
                self.assertIn(words, stderr)

    def test_half_open_connections_beyond_the_limit_leave_the_server_alive(self):
        server = self.serve("--max-connections=300", "--handshake-timeout=2s")
        first = self.stub(server.address)
        self.put(first)
        host, port = server.address.rsplit(":", 1)
        silent = []

        def served():
            try:
                self.put(self.stub(server.address))
                return True
            except grpc.RpcError as e:
                self.assertEqual(e.code(), UNAVAILABLE)
                return False

        def crowded():
            for _ in range(600):
                silent.append(socket.create_connection((host, int(port)), timeout=CALL_S))
            return not served()  # unless it took so long that the first are closed

        until(crowded, "there is no room for another client")
        self.put(first)
        # The silent ones are closed when their time is over, and there is room again.
        until(served, "a new client is served again")
        for connection in silent:
            connection.close()
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
