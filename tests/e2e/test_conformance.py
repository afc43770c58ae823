"""
One list of cases (conformance/cases.py), interpreted by a client in each of several languages: does varved look the
same from all of them?

    test_conformance.py python|node|go|java [NAME...]

Each kind of server in the list is started afresh for the client, which prints one line for each case. They must all
be there, in order, and all pass. A language that is missing is loudly skipped (exit code 77), but Python and Node.
"""

import json
import re
import subprocess
import sys
import threading

import grpc

import varved
from conformance import cases, languages
from varved import Varved
from varve.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc, replication_pb2, snapshots_pb2, watch_pb2

CLIENT_S = 120


def run(command, setup, address, wanted):
    """One client against one server; how many cases have failed."""
    path = varved.work_dir("conformance") / "cases.json"
    path.write_text(json.dumps(cases.document(wanted)))
    lines = []
    with subprocess.Popen([*varved.WITH_PARENT, *command, address, path], stdout=subprocess.PIPE, text=True,
                          env=varved.environment({"PYTHONPATH": str(varved.HERE)})) as client:
        watchdog = threading.Timer(CLIENT_S, client.kill)
        watchdog.start()
        for line in client.stdout:
            print(f"{setup}: {line[:2000].rstrip()}", flush=True)
            lines.append(line.rstrip("\n"))
        code = client.wait()
        watchdog.cancel()
    passed = [line.removeprefix("pass ") for line in lines if line.startswith("pass ")]
    failed = len(wanted) - len(passed)
    assert failed or (passed == list(wanted) and code == 0), f"{passed} of {list(wanted)}, {code}"
    return failed


def uncovered():
    """RPCs of the schema and error reasons of the sources that no case has."""
    steps = json.dumps([cases.document(wanted) for _, _, wanted in cases.SETUPS.values()])
    services = [service for module in (admin_pb2, kv_pb2, replication_pb2, snapshots_pb2, watch_pb2)
                for service in module.DESCRIPTOR.services_by_name.values()]
    missing = [f"{service.full_name}/{method.name}" for service in services for method in service.methods
               if f'"{service.full_name}/{method.name}"' not in steps]
    reasons = set()
    for source in (varved.ROOT / "rpc").glob("*.c"):
        reasons.update(re.findall(r'(?:VV_RPC_[A-Z_]+, (?:\d+, )?|->id,\s+)"([A-Z_]+)"', source.read_text()))
    assert {"MALFORMED", "WRITE_STALL", "OP_EMPTY"} <= reasons, f"the sources are not as this test reads them: {reasons}"
    return missing + sorted(reason for reason in reasons if f'"{reason}"' not in steps and reason not in cases.ELSEWHERE)


def prepare(data, setup):
    """What has been in the store before, and has been flushed, and what has happened to its files since."""
    entries, harm = cases.PREPARE[setup]
    with Varved(data) as server, grpc.insecure_channel(server.address) as channel:
        kv_pb2_grpc.KVStub(channel).Write(kv_pb2.WriteRequest(ops=[
            kv_pb2.Op(put=kv_pb2.PutOp(key=key, value=value)) for key, value in entries.items()]), timeout=60)
        admin_pb2_grpc.AdminStub(channel).Flush(admin_pb2.FlushRequest(), timeout=60)
        assert server.stop() == 0
    harm(data)


def main(language, *names):
    assert not (missing := uncovered()), f"no case has {missing}"
    command, failed, count = languages.client(language), 0, 0
    for setup, (flags, files, wanted) in cases.SETUPS.items():
        wanted = {name: steps for name, steps in wanted.items() if not names or name in names}
        if wanted:
            work = varved.work_dir("conformance")
            for name, text in files.items():
                (work / name).mkdir() if text is None else (work / name).write_text(text)
            flags = [flag.format(**{name: work / name for name in files}) for flag in flags]
            if setup in cases.PREPARE:
                prepare(work / "data", setup)
            with Varved(work / "data", *flags) as server:
                failed += run(command, setup, server.address, wanted)
                count += len(wanted)
                assert server.process.poll() is None, "the server has ended"
                assert server.stop() == 0
    print(f"{language}: {count - failed} passed, {failed} failed", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
