"""
grpcurl and ghz, the tools that people reach for, work without a .proto: through reflection v1 and v1alpha.

They are built from source with Go, once, into $E2E_DIR/go. Without Go of 1.21 or newer this test says
loudly that it is skipped (exit code 77).
"""

import base64
import json
import subprocess
import sys
import unittest

import go_tools
import varved
from go_tools import tool
from varved import Varved
from varve.v1 import admin_pb2, kv_pb2, snapshots_pb2, watch_pb2

SERVICES = {service.full_name: service for module in (admin_pb2, kv_pb2, snapshots_pb2, watch_pb2)
            for service in module.DESCRIPTOR.services_by_name.values()}

def b64(text):
    return base64.b64encode(text).decode()


class GrpcurlAndGhz(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = varved.work_dir("grpcurl")
        cls.socket = cls.work / "socket"
        (cls.work / "backups").mkdir()
        cls.server = Varved(cls.work / "data", f"--BACKUP_DIR={cls.work / 'backups'}", listen=("127.0.0.1:0", f"unix:{cls.socket}"))
        cls.addClassCleanup(cls.server.__exit__, None)
        cls.address = next(address for address in cls.server.addresses if not address.startswith("unix:"))

    def grpcurl(self, *words, before=(), code=0):
        done = subprocess.run([tool("grpcurl"), "-plaintext", "-max-time", "30", *before, self.address, *words],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout if code == 0 else done.stderr

    def test_list_and_describe(self):
        services = self.grpcurl("list").split()
        self.assertLessEqual({"grpc.health.v1.Health", *SERVICES}, set(services))
        for name, service in SERVICES.items():
            self.assertEqual(self.grpcurl("list", name).split(), sorted(m.full_name for m in service.methods))
        self.assertIn("bytes key = 1", self.grpcurl("describe", "varve.v1.PutRequest"))
        for service in services:
            self.assertIn("service", self.grpcurl("describe", service))

    def call(self, name, request, before=()):
        """The answers of a call, by name and with JSON alone."""
        out = self.grpcurl(f"varve.v1.{name}", before=["-d", json.dumps(request), *before])
        decoder, answers = json.JSONDecoder(), []
        while out := out.lstrip():
            answer, end = decoder.raw_decode(out)
            answers.append(answer)
            out = out[end:]
        return answers

    def test_a_call_of_each(self):
        key = {"key": b64(b"each")}
        calls = {"KV/Put": {**key, "value": b64(b"v")}, "KV/Get": key, "KV/MultiGet": {"keys": [b64(b"each")]},
                 "KV/Write": {"ops": [{"put": key}]}, "KV/Scan": {"prefix": b64(b"each")},
                 "KV/Pipeline": {"id": 1, "op": {"get": key}}, "KV/Delete": key,
                 "Snapshots/Open": {"lease_ms": 60000}, "Admin/Status": {}, "Admin/Stats": {}, "Admin/Dashboard": {},
                 "Admin/Flush": {},
                 "Admin/Compact": {}, "Admin/SetSafeCompactionLsn": {"lsn": 0}, "Admin/Verify": {},
                 "Admin/SetRateLimit": {"user": b64(b"someone"), "reads_per_second": 5},
                 "Admin/Backup": {"name": b64(b"backup")}, "Admin/Reload": {}}
        answers = {name: self.call(name, request) for name, request in calls.items()}
        self.assertEqual({name: len(messages) for name, messages in answers.items()}, dict.fromkeys(calls, 1))
        snapshot = answers["Snapshots/Open"][0]
        self.assertEqual(self.call("Snapshots/Renew", {"id": snapshot["id"]})[0]["lsn"], snapshot["lsn"])
        self.assertEqual(self.call("Snapshots/Release", {"id": snapshot["id"]}), [{}])
        self.assertIn("ALREADY_PRIMARY", self.grpcurl("varve.v1.Admin/Promote", code=64 + 9))
        # A watch goes on until its deadline, which is how grpcurl ends (4 is DEADLINE_EXCEEDED).
        self.call("KV/Put", {"key": b64(b"watched"), "value": b64(b"v")})
        done = subprocess.run([tool("grpcurl"), "-plaintext", "-max-time", "6", "-d",
                               json.dumps({"prefix": b64(b"watched"), "from_lsn": 1}), self.address,
                               "varve.v1.Watch/Watch"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 64 + 4, done.stderr)
        self.assertIn(b64(b"watched"), done.stdout)

    def test_calls(self):
        lsn = int(json.loads(self.grpcurl("varve.v1.KV/Put", before=[
            "-d", json.dumps({"key": b64(b"k"), "value": b64(b"v")})]))["lsn"])
        get = ["-d", json.dumps({"key": b64(b"k")})]
        self.assertEqual(json.loads(self.grpcurl("varve.v1.KV/Get", before=get)),
                         {"found": True, "value": b64(b"v"), "lsn": str(lsn)})
        ops = [{"put": {"key": b64(b"a"), "value": b64(b"1")}}, {"delete": {"key": b64(b"k")}}]
        answer = json.loads(self.grpcurl("varve.v1.KV/Write", before=["-d", json.dumps({"ops": ops})]))
        self.assertEqual(answer, {"lsn": str(lsn + 2), "applied": True})
        self.assertEqual(json.loads(self.grpcurl("varve.v1.KV/Get", before=get)), {})
        self.assertEqual(json.loads(self.grpcurl("grpc.health.v1.Health/Check")), {"status": "SERVING"})

    def test_errors_are_shown_with_their_details(self):
        # 64 + the status code is how grpcurl ends; INVALID_ARGUMENT is 3.
        words = self.grpcurl("varve.v1.KV/Put", code=64 + 3)
        self.assertIn("InvalidArgument", words)
        self.assertIn("KEY_EMPTY", words)

    def test_over_the_unix_socket(self):
        done = subprocess.run([tool("grpcurl"), "-plaintext", "-max-time", "30", f"unix://{self.socket}", "list"],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("varve.v1.KV", done.stdout)

    def test_ghz_mixed(self):
        """Each of the calls that make a load, all at once; keys from the number of the request (eight digits are base64)."""
        key = "{{ printf `%08d` .RequestNumber }}"
        load = {"Put": {"key": key, "value": b64(bytes(100))},
                "Get": {"key": key},
                "MultiGet": {"keys": [key, b64(b"none")]},
                "Write": {"ops": [{"put": {"key": key, "value": b64(bytes(100))}}, {"delete": {"key": b64(b"d")}}]},
                "Scan": {"limit": 20},
                "Pipeline": [{"id": 1, "op": {"put": {"key": key, "value": b64(bytes(100))}}}] * 4}
        count = {"Scan": 1000, "Pipeline": 500}
        runs = {}
        for name, data in load.items():
            n = count.get(name, 2000)
            runs[name] = n, subprocess.Popen(
                [tool("ghz"), "--insecure", "--call", f"varve.v1.KV.{name}", "--data", json.dumps(data), "-n", str(n),
                 "-c", "10", "--connections", "2", "--timeout", "30s", "--format", "json", self.address],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.addCleanup(runs[name][1].kill)
        for name, (n, process) in runs.items():
            out, words = process.communicate(timeout=240)
            self.assertEqual(process.returncode, 0, out[-2000:] + words)
            report = json.loads(out)
            self.assertEqual(report["statusCodeDistribution"], {"OK": n}, name)
            self.assertFalse(report.get("errorDistribution"), name)
            percentiles = ", ".join(f"p{p['percentage']} {p['latency'] / 1e6:.2f} ms"
                                    for p in report["latencyDistribution"] if p["percentage"] in (50, 95, 99))
            print(f"{name}: {report['rps']:.0f}/s, {percentiles}", flush=True)


if __name__ == "__main__":
    try:
        go_tools.build()
    except go_tools.NoGo as why:
        print(f"\n*** SKIPPED: grpcurl and ghz were NOT run against varved: {why}\n", file=sys.stderr)
        sys.exit(77)
    unittest.main(verbosity=2)
