#!/usr/bin/env python3
"""Measure the server beside an empty one on the same gRPC core, etcd and Redis: ./dev perf.

    run.py [--quick] [--resume] [--rounds N] [--seconds S] [--out DIR] [NAME...]      NAME: a profile below; all by default

A profile that fails is told of, and the others run all the same; the exit code is 1 then. With --resume those are left out that
have a result of this commit and so many rounds.

Every profile writes perf/results/served-NAME.json (`--quick`: build/perf/results, one round of a second, to see that it runs). In each
round every side has its turn, and the order rotates from round to round, because the machine's mood changes from one
minute to the next: trust the ratios. All servers of a profile are up, and idle while another has its turn. Keys have 16
bytes, values 64 where nothing else is said.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.dont_write_bytecode = True
import load  # noqa: E402
import peers  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
VALUE_BYTES = 64
CONNECTIONS, STREAMS = 10, 50
GET, PUT, SCAN, PIPELINE = (f"/varve.v1.KV/{name}" for name in ("Get", "Put", "Scan", "Pipeline"))


class Side:
    """One side of a comparison: what a turn of it measures, and what the rounds said."""

    def __init__(self, workload, server, turn, unit="ops/s", **more):
        self.workload, self.server, self.turn, self.unit, self.more = workload, server, turn, unit, more
        self.rounds, self.cpu_us, self.latencies = [], [], []

    def run(self, seconds):
        before = peers.cpu_us(self.server.pid)
        try:
            figure, latencies, operations = self.turn(seconds)
        except (load.LoadFailed, subprocess.TimeoutExpired) as why:
            print(f"  {self.workload}, {self.server.store}: once more, as {why}", file=sys.stderr, flush=True)
            before = peers.cpu_us(self.server.pid)
            figure, latencies, operations = self.turn(seconds)
        self.rounds.append(figure)
        self.latencies += latencies
        if operations:
            self.cpu_us.append(round((peers.cpu_us(self.server.pid) - before) / operations, 3))

    def as_json(self):
        out = {"workload": self.workload, "store": self.server.store, "unit": self.unit, "threads": 1, **self.more,
               "rounds": [round(figure, 1) for figure in self.rounds], "median": round(statistics.median(self.rounds), 1)}
        if self.cpu_us:
            out["server_cpu_us_per_op"] = statistics.median(self.cpu_us)
        if self.latencies:
            out["latency_us"] = load.percentiles(self.latencies)
        return out

    def line(self):
        words = f"  {self.workload:22}{self.server.store:8}"
        words += " ".join(f"{name} {value}" for name, value in self.more.items()).ljust(38)
        words += f"{statistics.median(self.rounds):12,.0f} {self.unit} ({min(self.rounds):,.0f} - {max(self.rounds):,.0f})"
        if self.cpu_us:
            words += f"  {statistics.median(self.cpu_us):.2f} us of CPU each"
        if self.latencies:
            p = load.percentiles(self.latencies)
            words += f"  p50 {p['p50']:,} p99 {p['p99']:,} p99.9 {p['p999']:,} us"
        return words


class Bench:
    """A profile that runs: its directory, its servers, its bodies."""

    def __init__(self, place):
        self.place, self.servers, self.sides = place, [], []

    def start(self, kind, *flags):
        self.servers.append(kind(self.place, *flags))
        return self.servers[-1]

    def varve(self, *flags):
        """With KEYS entries of VALUE_BYTES to read."""
        server = self.start(peers.VarveServer, *flags)
        load.check_call(server.address, PIPELINE, self.body(load.pipeline_body(VALUE_BYTES)))
        return server

    def body(self, content):
        path = self.place / f"body-{len(list(self.place.glob('body-*')))}"
        path.write_bytes(content)
        return path

    def calls(self, workload, server, method, content, connections=CONNECTIONS, streams=STREAMS, per_call=1, **more):
        """A side of calls by h2load."""
        path = self.body(content)
        load.check_call(server.address, method, path)

        def turn(seconds):
            rate, whole_s = load.h2load(server.address, method, path, connections, streams, seconds)
            return rate * per_call, [], rate * per_call * whole_s

        self.sides.append(Side(workload, server, turn, connections=connections, streams=streams, **more))


# ---- the profiles ----

def unary(b):
    """One call an operation, 10 connections x 50 streams, against an empty handler."""
    empty, varve = b.start(peers.EmptyServer), b.varve()
    b.calls("EmptyCall", empty, PUT, load.put_body(VALUE_BYTES))
    b.calls("UnaryGet", varve, GET, load.get_body())
    b.calls("UnaryPutAsync", varve, PUT, load.put_body(VALUE_BYTES, durability=1))
    b.calls("UnaryPut", varve, PUT, load.put_body(VALUE_BYTES))


def scan(b):
    """Scans of 100 and of 5,000 entries; entries a second."""
    varve = b.varve()
    for limit, connections, streams in ((100, CONNECTIONS, STREAMS), (load.KEYS // 2, 4, 1)):
        b.calls(f"Scan{limit}", varve, SCAN, load.scan_body(limit), connections, streams, per_call=limit)


def pipeline(b):
    """KV.Pipeline, one stream and four, a hundred operations a message, against unary calls on the same server."""
    varve = b.varve()
    b.calls("UnaryGet", varve, GET, load.get_body())
    b.calls("UnaryPut", varve, PUT, load.put_body(VALUE_BYTES))
    for streams in (1, 4):
        b.calls("PipelineGet", varve, PIPELINE, load.pipeline_body(), streams, 1, per_call=load.KEYS)
        b.calls("PipelinePut", varve, PIPELINE, load.pipeline_body(VALUE_BYTES, b"put"), streams, 1, per_call=load.KEYS)


def etcd(b):
    """Durable puts and linearizable gets of one etcd, 10 connections x 50 streams, against the same of Varve."""
    peer, varve = b.start(peers.Etcd), b.varve()
    preload = b.body(load.etcd_put_body(VALUE_BYTES, load.key(load.KEYS // 2)))
    load.check_call(peer.address, "/etcdserverpb.KV/Put", preload)
    b.calls("UnaryPut", varve, PUT, load.put_body(VALUE_BYTES))
    b.calls("UnaryPut", peer, "/etcdserverpb.KV/Put", load.etcd_put_body(VALUE_BYTES))
    b.calls("UnaryGet", varve, GET, load.get_body())
    b.calls("UnaryGet", peer, "/etcdserverpb.KV/Range", load.etcd_range_body())


def redis(b):
    """Redis with appendfsync always, 50 connections, one command and 16 at a time; Varve with as many calls."""
    peer, varve = b.start(peers.Redis), b.varve()
    for depth in (1, 16):
        b.calls("UnaryPut", varve, PUT, load.put_body(VALUE_BYTES), 50, depth)
        b.calls("UnaryGet", varve, GET, load.get_body(), 50, depth)
        for workload, test in (("UnaryPut", "set"), ("UnaryGet", "get")):
            b.sides.append(Side(workload, peer, redis_turn(peer, test, depth), connections=50, streams=depth))


def redis_turn(server, test, depth):
    def measure(requests):
        return load.redis_benchmark(server.benchmark, peers.peer_environment(), server.port, test, 50, depth, VALUE_BYTES, requests)

    def turn(seconds):
        requests = max(1000, int(measure(20000) * seconds))
        return measure(requests), [], requests + 20000
    return turn


def latency(b):
    """An open loop of ghz: calls at a fixed rate whether or not earlier ones were answered, from when each was due."""
    try:
        import go_tools
        go_tools.build("ghz")
    except go_tools.NoGo as why:
        print(f"\n*** SKIPPED: ghz did NOT run: {why}\n", file=sys.stderr)
        return
    empty, varve, peer = b.start(peers.EmptyServer), b.varve(), b.start(peers.Etcd)
    load.check_call(peer.address, "/etcdserverpb.KV/Put", b.body(load.etcd_put_body(VALUE_BYTES, load.key(load.KEYS // 2))))
    for rate in (1000, 4000):
        for workload, server, profile in (("EmptyCall", empty, "put"), ("UnaryGet", varve, "get"),
                                          ("UnaryPutAsync", varve, "put_async"), ("UnaryPut", varve, "put"),
                                          ("UnaryPut", peer, "etcd_put"), ("UnaryGet", peer, "etcd_range")):
            def turn(seconds, server=server, profile=profile, rate=rate):
                found = load.ghz(go_tools.tool("ghz"), profile, server.address, rate, seconds, b.place)
                return rate, found, len(found)
            b.sides.append(Side(workload, server, turn, unit="calls/s offered", connections=10, rate=rate))


def alone(b):
    """One connection, one call at a time: how long it takes."""
    empty, varve = b.start(peers.EmptyServer), b.varve()
    for workload, server, method, content in (
            ("EmptyCall", empty, PUT, load.put_body(VALUE_BYTES)), ("UnaryGet", varve, GET, load.get_body()),
            ("UnaryPutAsync", varve, PUT, load.put_body(VALUE_BYTES, durability=1)),
            ("UnaryPut", varve, PUT, load.put_body(VALUE_BYTES))):
        path = b.body(content)
        load.check_call(server.address, method, path)

        def turn(seconds, server=server, method=method, path=path):
            found = load.h2load_latencies(server.address, method, path, 1, 1, 5000 * seconds, b.place / "calls")
            return 1e6 * len(found) / sum(found), found, len(found)
        b.sides.append(Side(workload, server, turn, connections=1, streams=1))


def size(b):
    """What a value's size costs."""
    varve = b.varve()
    for value_bytes in (16, 64, 256, 1024, 4096, 16384, 65536):
        name = load.key(value_bytes, b"size")
        load.check_call(varve.address, PUT, b.body(load.put_body(value_bytes, of=name)))
        b.calls("UnaryGet", varve, GET, load.get_body(name), value_bytes=value_bytes)
        b.calls("UnaryPut", varve, PUT, load.put_body(value_bytes), value_bytes=value_bytes)


PROFILES = {f.__name__: f for f in (unary, scan, pipeline, etcd, redis, latency, alone, size)}


# ---- running, and what comes out ----

def machine():
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory_kib = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    return {"processor": cpu[1] if cpu else platform.machine(), "cores": os.cpu_count(), "memory_mib": memory_kib // 1024,
            "kernel": f"{platform.system()} {platform.release()}", "load": round(os.getloadavg()[0], 2),
            "time": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")}


def commit():
    """With -dirty where sources differ from it; what this writes itself does not count."""
    git = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!perf/results", ":!perf/README.md")
    return git("describe", "--always", "--abbrev=12") + ("-dirty" if changed else "")


def has_result(path, rounds):
    """Is there one of this commit?"""
    try:
        result = json.loads(path.read_text())
        return result["commit"] == commit() and min(len(run["rounds"]) for run in result["runs"]) >= rounds
    except (OSError, ValueError, KeyError):
        return False


def run(name, rounds, seconds, out):
    begin, began = {"machine": machine(), "commit": commit()}, time.monotonic()
    place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=ROOT / "build/perf"))
    b = Bench(place)
    print(f"{name}: {PROFILES[name].__doc__}", flush=True)
    try:
        PROFILES[name](b)
        for r in range(rounds):
            for turn in range(len(b.sides)):
                b.sides[(turn + r) % len(b.sides)].run(seconds)
    finally:
        for server in b.servers:
            try:
                server.stop()
            except Exception as why:  # the others are to be stopped, too
                print(f"  {server.store} did not end well: {why}", file=sys.stderr)
        shutil.rmtree(place, ignore_errors=True)
    if not b.sides:
        return
    for side in b.sides:
        print(side.line())
    settings = {"profile": name, "what": PROFILES[name].__doc__, "rounds": rounds, "seconds": seconds, "key_bytes": load.KEY_BYTES,
                "value_bytes": VALUE_BYTES}
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"served-{name}.json"
    path.write_text(json.dumps({**begin, "settings": settings, "runs": [s.as_json() for s in b.sides]}, indent=1) + "\n")
    print(f"  written to {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path} after {time.monotonic() - began:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--has", type=Path, help="only say, by the exit code, whether that file is a result of this commit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "perf/results")
    parser.add_argument("name", nargs="*", help=", ".join(PROFILES))
    args = parser.parse_args()
    if args.has:
        sys.exit(not has_result(args.has, 1))
    if unknown := set(args.name) - set(PROFILES):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are: {', '.join(PROFILES)}")
    if args.quick:
        args.rounds, args.seconds, args.out = 1, 1, ROOT / "build/perf/results"
    (ROOT / "build/perf").mkdir(parents=True, exist_ok=True)
    peers.fetch()
    failed = []
    for name in args.name or PROFILES:
        if args.resume and has_result(args.out / f"served-{name}.json", args.rounds):
            print(f"{name}: has a result of this commit", flush=True)
            continue
        try:
            run(name, args.rounds, args.seconds, args.out)
        except Exception:  # whatever it is, the others are to be measured
            traceback.print_exc()
            failed.append(name)
    if failed:
        sys.exit(f"perf: failed: {' '.join(failed)}; ./dev perf {' '.join(failed)} tries them again")


if __name__ == "__main__":
    main()
