"""
grpcurl and ghz, the tools that people reach for, work without a .proto: through reflection v1 and v1alpha.

They are built from source with Go, once, into $E2E_DIR/go. Without Go of 1.21 or newer this test says
loudly that it is skipped (exit code 77).
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import unittest

import varved
from varved import Varved
from varve.v1 import kv_pb2

GO = varved.BUILD / "go"
TOOLS = {"grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3",
         "ghz": "github.com/bojand/ghz/cmd/ghz@v0.120.0"}
BUILD_S = 900


def skip(why):
    print(f"\n*** SKIPPED: grpcurl and ghz were NOT run against varved: {why}\n", file=sys.stderr)
    sys.exit(77)


def build():
    missing = [name for name, source in TOOLS.items()
               if not (GO / "bin" / f"{name}-{source.rsplit('@')[1]}").exists()]
    if not missing:
        return
    if not shutil.which("go"):
        skip("there is no go")
    version = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True).stdout
    if not (found := re.match(r"go1\.(\d+)", version)) or int(found[1]) < 21:
        skip(f"go is {version.strip()}, at least 1.21 is needed")
    env = {**os.environ, "GOPATH": str(GO / "path"), "GOBIN": str(GO / "bin"), "GOFLAGS": "-modcacherw",
           "GOCACHE": str(GO / "cache"), "GOTOOLCHAIN": "local"}
    for name in missing:
        subprocess.run(["go", "install", TOOLS[name]], env=env, check=True, timeout=BUILD_S)
        os.rename(GO / "bin" / name, tool(name))
    for folder in ("path", "cache"):  # hundreds of megabytes that the tools don't need
        shutil.rmtree(GO / folder, ignore_errors=True)


def tool(name):
    return GO / "bin" / f"{name}-{TOOLS[name].rsplit('@')[1]}"


def b64(text):
    return base64.b64encode(text).decode()


class GrpcurlAndGhz(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = varved.work_dir("grpcurl")
        cls.socket = cls.work / "socket"
        cls.server = Varved(cls.work / "data", listen=("127.0.0.1:0", f"unix:{cls.socket}"))
        cls.addClassCleanup(cls.server.__exit__, None)
        cls.address = next(address for address in cls.server.addresses if not address.startswith("unix:"))

    def grpcurl(self, *words, before=(), code=0):
        done = subprocess.run([tool("grpcurl"), "-plaintext", "-max-time", "30", *before, self.address, *words],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout if code == 0 else done.stderr

    def test_list_and_describe(self):
        services = self.grpcurl("list").split()
        self.assertLessEqual({"varve.v1.KV", "grpc.health.v1.Health"}, set(services))
        self.assertEqual(self.grpcurl("list", "varve.v1.KV").split(),
                         sorted(method.full_name for method in kv_pb2.DESCRIPTOR.services_by_name["KV"].methods))
        self.assertIn("bytes key = 1", self.grpcurl("describe", "varve.v1.PutRequest"))
        for service in services:
            self.assertIn("service", self.grpcurl("describe", service))

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

    def ghz(self, call, data, count=2000):
        done = subprocess.run([tool("ghz"), "--insecure", "--call", call, "--data", json.dumps(data), "-n", str(count),
                               "-c", "20", "--connections", "4", "--timeout", "30s", "--format", "json", self.address],
                              capture_output=True, text=True, timeout=180)
        self.assertEqual(done.returncode, 0, done.stdout[-2000:] + done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual(report["statusCodeDistribution"], {"OK": count})
        print(f"{call}: {report['rps']:.0f}/s", flush=True)

    def test_ghz(self):
        self.ghz("varve.v1.KV.Put", {"key": b64(b"ghz"), "value": b64(bytes(100))})
        self.ghz("varve.v1.KV.Get", {"key": b64(b"ghz")})


if __name__ == "__main__":
    build()
    unittest.main(verbosity=2)
