#!/usr/bin/env python3
"""What a watcher sees of varved: Prometheus' own tool reads /metrics and the alerts, probes are told the truth, every
metric that the alerts and the Grafana dashboard name is there, and the numbers are those of the calls that were made.

Ends with 77 when promtool can't be had: the rest has passed then.
"""

import json
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import grpc
import promtool
import varved
from varve.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc

OPS = varved.ROOT / "ops"
SKIPPED = 77


def start(data, *flags, **kwargs):
    """A server, and where it tells of itself."""
    return varved.Varved(data, "--metrics-listen", "127.0.0.1:0", *flags, wait=False, **kwargs)


def ask(address, path, method="GET", data=None):
    """Status, type and text."""
    request = urllib.request.Request(f"http://{address}{path}", method=method, data=data)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.headers["Content-Type"], e.read().decode()


def samples(text):
    """Name and labels, as they stand there, to value."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            key, value = line.rsplit(" ", 1)
            assert key not in found, f"twice: {key}"
            found[key] = float(value)
    return found


def families(text):
    return set(re.findall(r"^# TYPE (\S+)", text, re.M))


def calls(service, method, code):
    return f'varve_rpc_requests_total{{service="varve.v1.{service}",method="{method}",code="{code}"}}'


def check_numbers(server, watch):
    with grpc.insecure_channel(server.address) as channel:
        kv, admin = kv_pb2_grpc.KVStub(channel), admin_pb2_grpc.AdminStub(channel)
        for i in range(40):
            kv.Put(kv_pb2.PutRequest(key=b"k%03d" % i, value=b"v" * 1000), timeout=60)
        for i in range(70):
            kv.Get(kv_pb2.GetRequest(key=b"k%03d" % i), timeout=60)
        for _ in range(3):
            try:
                kv.Put(kv_pb2.PutRequest(key=b"", value=b"v"), timeout=60)
            except grpc.RpcError as e:
                assert e.code() == grpc.StatusCode.INVALID_ARGUMENT
        admin.Flush(admin_pb2.FlushRequest(), timeout=60)
        for i in range(40):
            kv.Get(kv_pb2.GetRequest(key=b"k%03d" % i), timeout=60)
        admin.SetRateLimit(admin_pb2.SetRateLimitRequest(user=b"default", writes_per_second=1, write_burst=1), timeout=60)
        refused = 0
        for i in range(5):
            try:
                kv.Put(kv_pb2.PutRequest(key=b"x", value=b"y"), timeout=60)
            except grpc.RpcError as e:
                assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                refused += 1
    # A call is counted when it is over here, a moment after its client has the answer.
    get = 'service="varve.v1.KV",method="Get"'
    varved.until(lambda: samples(ask(watch, "/metrics")[2])[calls("KV", "Get", "OK")] >= 110, "all Gets are counted")
    varved.until(lambda: samples(ask(watch, "/metrics")[2]).get(calls("KV", "Put", "RESOURCE_EXHAUSTED"), 0) >= refused,
                 "all Puts are counted")
    text = ask(watch, "/metrics")[2]
    found = samples(text)
    puts = 45 - refused
    expected = {calls("KV", "Get", "OK"): 110, calls("KV", "Put", "OK"): puts, calls("KV", "Put", "INVALID_ARGUMENT"): 3,
                calls("KV", "Put", "RESOURCE_EXHAUSTED"): refused, calls("Admin", "Flush", "OK"): 1,
                f"varve_rpc_request_duration_seconds_count{{{get}}}": 110,
                f'varve_rpc_request_duration_seconds_bucket{{{get},le="+Inf"}}': 110,
                'varve_phase_duration_seconds_count{operation="write",phase="wal"}': puts,
                'varve_phase_duration_seconds_count{operation="read",phase="memory"}': 110,
                "varve_last_lsn": puts, "varve_durable_lsn": puts, "varve_wal_records_total": puts, "varve_flushes_total": 1,
                "varve_flush_duration_seconds_count": 1, 'varve_level_runs{level="0"}': 1, "varve_ready": 1,
                "varve_wal_failed": 0, 'varve_replication_role{role="primary"}': 1,
                'varve_user_rate_limit{user="default",operation="write"}': 1,
                'varve_user_rate_limited_total{user="default",operation="write"}': refused}
    wrong = {key: (found.get(key), value) for key, value in expected.items() if found.get(key) != value}
    assert not wrong, f"(found, expected): {wrong}"
    assert found["varve_wal_commits_total"] == found["varve_wal_commit_records_count"] == \
        found["varve_wal_commit_duration_seconds_count"] > 0
    assert found["varve_wal_commit_records_sum"] == puts
    assert found["varve_block_cache_hits_total"] + found["varve_block_cache_misses_total"] > 0
    assert found["varve_rpc_sent_bytes_total{" + get + "}"] > 80 * 1000
    kinds = sum(value for key, value in found.items() if key.startswith("varve_memory_bytes{"))
    stats = json.loads(ask(watch, "/dashboard.json")[2])
    assert abs(kinds - stats["stats"]["memory_bytes"]) < 0.2 * kinds, (kinds, stats["stats"]["memory_bytes"])
    assert [run["level"] for run in stats["runs"]] == [0] and stats["runs"][0]["entries"] == 40, stats["runs"]
    assert sum(n for _, n in next(m for m in stats["methods"] if m["method"] == "Get")["us"]) == 110
    for key, value in found.items():  # each histogram rises and ends with all
        if '_bucket{' in key and 'le="+Inf"' in key:
            name = key.replace("_bucket{", "_count{").replace(',le="+Inf"', "").replace('{le="+Inf"}', "").replace(
                '_bucket', '_count')
            assert found[name] == value, key
    return text


def check_answers(watch):
    assert ask(watch, "/healthz")[::2] == (200, "ok\n")
    assert ask(watch, "/readyz")[::2] == (200, "ok\n")
    assert ask(watch, "/metrics")[1].startswith("text/plain; version=0.0.4")
    assert ask(watch, "/")[1].startswith("text/html") and "<title>Varve</title>" in ask(watch, "/")[2]
    assert ask(watch, "/etc/passwd")[0] == ask(watch, "/../metrics")[0] == 404
    assert ask(watch, "/metrics", "HEAD")[::2] == (200, "")
    assert ask(watch, "/metrics", "POST", b"x" * 100000)[0] == 405
    host, port = watch.rsplit(":", 1)
    for rubbish in (b"\0" * 1000, b"GET " + b"/" * 100000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n"):
        with socket.create_connection((host, int(port)), timeout=60) as s:
            s.sendall(rubbish)
    many = [threading.Thread(target=ask, args=(watch, "/metrics")) for _ in range(40)]
    for t in many:
        t.start()
    for t in many:
        t.join()
    assert ask(watch, "/healthz")[0] == 200


def check_names(text):
    """What the alerts and the dashboard ask for is what there is."""
    there = families(text)
    there |= {name + end for name in there for end in ("_bucket", "_sum", "_count")}
    alerts = (OPS / "prometheus/varve-alerts.yml").read_text()
    board = json.loads((OPS / "grafana/varve.json").read_text())
    asked = [alerts] + [t["expr"] for panel in board["panels"] for t in panel.get("targets", ())]
    named = {name for words in asked for name in re.findall(r"\b(?:varve|process)_[a-z0-9_]+", words)}
    # These come with followers and archives.
    missing = named - there - {"varve_archive_failing", "varve_archive_gaps_total"}
    assert not missing, f"named, but not there: {sorted(missing)}"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def check_tool(tool, text):
    for command, given in ((["check", "metrics"], text), (["check", "rules", OPS / "prometheus/varve-alerts.yml"], None),
                           (["test", "rules", "varve-alerts-test.yml"], None)):
        done = subprocess.run([tool, *command], input=given, capture_output=True, text=True, timeout=120,
                              cwd=OPS / "prometheus")
        assert done.returncode == 0, f"promtool {command}: {done.stdout}{done.stderr}"
        assert given is None or not done.stdout + done.stderr, done.stdout + done.stderr


def check_life(work):
    """A follower without a primary is alive and not ready, and says so before it serves."""
    with start(work / "empty", "--follow", "127.0.0.1:1") as server:
        watch = varved.until(lambda: re.search(r"metrics and dashboard: http://(\S+?)\"?$", server.stderr(), re.M),
                             "it says where")[1]
        assert ask(watch, "/healthz")[0] == 200
        assert ask(watch, "/readyz")[0] == 503
        assert samples(ask(watch, "/metrics")[2])["varve_ready"] == 0
        assert "stats" not in json.loads(ask(watch, "/dashboard.json")[2])


def check_refusals(work):
    for value in ("nonsense", "127.0.0.1", "127.0.0.1:70000", "::1:9000"):
        try:
            with start(work / "refused", f"--metrics-listen={value}") as server:
                server.await_ready(1)
                raise AssertionError(f"{value} is taken")
        except varved.StartRefused as e:
            assert e.code == 2 and "METRICS_LISTEN" in e.stderr, e
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        try:
            with start(work / "refused", f"--metrics-listen={address}") as server:
                server.await_ready(1)
                raise AssertionError("a port is taken twice")
        except varved.StartRefused as e:
            assert e.code == 1 and address in e.stderr, e


def main():
    work = varved.work_dir("metrics")
    tool = promtool.find()
    with start(work / "data") as server:
        server.await_ready(2)
        watch = server.addresses[1]
        text = check_numbers(server, watch)
        check_answers(watch)
        check_names(text)
        if tool:
            check_tool(tool, text)
        assert server.stop() == 0
    path = work / "watch.sock"
    with start(work / "data", f"--metrics-listen=unix:{path}") as server:
        server.await_ready(2)
        assert path.is_socket() and path.stat().st_mode & 0o777 == 0o600
        assert server.stop() == 0 and not path.exists()
    check_life(work)
    check_refusals(work)
    if not tool:
        print("SKIPPED, LOUDLY: there is no promtool and Debian's could not be fetched; all else has passed")
        sys.exit(SKIPPED)


if __name__ == "__main__":
    main()
