"""What puts load on a server: h2load, ghz, redis-benchmark; and the bodies of the calls, as bytes."""

import json
import os
import re
import struct
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

KEY_BYTES = 16
KEYS = 10000  # that are there before anything is measured
MESSAGE_OPS = 100  # operations in a message of KV.Pipeline
STREAM_MESSAGES = 100  # messages in a stream


class LoadFailed(Exception):
    pass


# ---- bodies: five bytes of framing, and the encoded message (the numbers are those of proto/ and of etcd) ----

def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, value):
    """A field of bytes, or of an integer, which is left out when it is 0."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def frame(message):
    return b"\0" + struct.pack(">I", len(message)) + message


def key(number, prefix=b"key"):
    return prefix + b"%0*d" % (KEY_BYTES - len(prefix), number)


def get_body(of=key(KEYS // 2)):
    return frame(field(1, of))


def put_body(value_bytes, durability=0, of=key(0, b"put")):
    return frame(field(1, of) + field(2, bytes([0x76]) * value_bytes) + field(3, durability))


def scan_body(limit):
    return frame(field(1, key(KEYS // 4)) + field(5, limit))


def pipeline_body(value_bytes=None, prefix=b"key"):
    """KEYS operations on different keys in scattered order: puts of so many bytes, or gets."""
    numbers = [n * 7919 % KEYS for n in range(KEYS)]
    messages = []
    for at in range(0, KEYS, MESSAGE_OPS):
        message = b""
        for n in numbers[at:at + MESSAGE_OPS]:
            op = field(3, field(1, key(n, prefix))) if value_bytes is None else \
                field(1, field(1, key(n, prefix)) + field(2, bytes([0x76]) * value_bytes))
            message += field(6, field(1, at + 1) + field(2, op))
        messages.append(frame(message))
    return b"".join(messages)


def etcd_range_body(of=key(KEYS // 2)):
    return frame(field(1, of))


def etcd_put_body(value_bytes, of=key(0, b"put")):
    return frame(field(1, of) + field(2, bytes([0x76]) * value_bytes))


# ---- h2load ----

HEADERS = ["-H", "content-type: application/grpc", "-H", "te: trailers"]


def check_call(address, method, body_path):
    """One call must end with grpc-status 0, which h2load does not look at."""
    done = subprocess.run(["nghttp", "-v", "-d", body_path, *HEADERS, f"http://{address}{method}"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    status = re.search(rb"grpc-status: (\d+)", done.stdout)
    if not status or status[1] != b"0":
        raise LoadFailed(f"{method} at {address}: {done.stdout.decode(errors='replace')[-1500:]}")


def h2load(address, method, body_path, connections, streams, seconds, warm_up=1):
    """Calls a second that were answered, and how long all of it took, warm-up included."""
    command = ["h2load", "-D", str(seconds), f"--warm-up-time={warm_up}", "-c", str(connections), "-m", str(streams),
               "-t", "1", "-d", body_path, *HEADERS, f"http://{address}{method}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds + 120)
    rate = re.search(r"finished in [^,]+, ([0-9.]+) req/s", done.stdout)
    bad = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    if done.returncode != 0 or not rate or not float(rate[1]) or not bad or any(int(n) for n in bad.groups()):
        raise LoadFailed(f"{method} at {address}:\n{done.stdout[-1500:]}")
    return float(rate[1]), seconds + warm_up


def h2load_latencies(address, method, body_path, connections, streams, requests, log_path):
    """Of so many calls, each connection sending its next when one is answered: microseconds each."""
    command = ["h2load", "-n", str(requests), "-c", str(connections), "-m", str(streams), "-t", "1", "-d", body_path,
               f"--log-file={log_path}", *HEADERS, f"http://{address}{method}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    if done.returncode != 0:
        raise LoadFailed(f"{method} at {address}:\n{done.stdout[-1500:]}")
    rows = [line.split("\t") for line in Path(log_path).read_text().splitlines()]
    os.unlink(log_path)
    if len(rows) != requests or any(row[1] != "200" for row in rows):
        raise LoadFailed(f"{method} at {address}: {len(rows)} of {requests} calls answered")
    return [int(row[2]) for row in rows]


# ---- ghz: an open loop ----

def scheduled_latencies(calls, rate):
    """
    Microseconds from when each call was due until it ended. calls: (end in ns, duration in ns).

    A generator that falls behind its schedule, because the server or the machine holds it up, sends its calls late, and
    their own durations leave out just the time in which a user would have waited ("coordinated omission"). So each
    call counts from when it was due: the n-th n/rate after the first, by the earliest schedule that all calls fit.
    """
    starts = sorted((end - duration, end) for end, duration in calls)
    step = 1e9 / rate
    first = min(start - n * step for n, (start, _) in enumerate(starts))
    return [max(0.0, end - (first + n * step)) / 1000 for n, (_, end) in enumerate(starts)]


def ghz(tool, profile, address, rate, seconds, place):
    """Latencies of a profile of perf/ghz at so many calls a second, as scheduled_latencies() counts them. place: for its files."""
    config = json.loads((ROOT / "perf/ghz" / f"{profile}.json").read_text())
    config |= {"host": address, "rps": rate, "total": int(rate * seconds), "format": "json",
               "proto": str(ROOT / config["proto"])}
    config["import-paths"] = [str(ROOT / path) for path in config.get("import-paths", [])]
    path = place / "ghz.json"
    path.write_text(json.dumps(config))
    done = subprocess.run([tool, "--config", path], capture_output=True, text=True, timeout=seconds + 120)
    if done.returncode != 0:
        raise LoadFailed(f"ghz {profile}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    report = json.loads(done.stdout)
    if set(report["statusCodeDistribution"]) != {"OK"}:
        raise LoadFailed(f"ghz {profile} at {address}: {report['statusCodeDistribution']}")
    return scheduled_latencies([(nanoseconds(d["timestamp"]), d["latency"]) for d in report["details"]], rate)


def nanoseconds(stamp):
    """Of an RFC 3339 time, within its day: all that differences need, as a run does not last for days."""
    hours, minutes, seconds, fraction = re.search(r"T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?", stamp).groups()
    whole = (int(hours) * 60 + int(minutes)) * 60 + int(seconds)
    return whole * 10**9 + int((fraction or "0").ljust(9, "0"))


def percentiles(latencies):
    """As bench/report.h has them."""
    ordered = sorted(latencies)
    at = lambda part: round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 1)
    return {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": round(ordered[-1], 1)}


# ---- redis-benchmark ----

def redis_benchmark(tool, env, port, test, connections, pipeline, value_bytes, requests):
    """Operations a second."""
    done = subprocess.run([tool, "-h", "127.0.0.1", "-p", str(port), "-t", test, "-c", str(connections), "-P",
                           str(pipeline), "-d", str(value_bytes), "-r", str(KEYS), "-n", str(requests), "--csv"],
                          capture_output=True, text=True, env=env, timeout=600)
    row = re.search(rf'^"{test}","([0-9.]+)"', done.stdout, re.M | re.I)
    if done.returncode != 0 or not row:
        raise LoadFailed(f"redis-benchmark: {done.stdout}{done.stderr}")
    return float(row[1])
