#!/usr/bin/env python3
"""Write the tables of perf/README.md anew from perf/results/*.json: ./dev perf table [--check | DIR]

Every figure in them comes from a result, and what no result has is not in them. --check: exit 1 if README.md would change.
DIR: print the targets' table of the results there, and leave README.md alone.
"""

import json
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"


def engine(workload, threads, peer, at_least=None, at_most=None):
    """A ratio of one workload between Varve and a peer; without one, Varve's own figure."""
    return {"file": None, "of": {"workload": workload, "threads": threads, "store": "varve"},
            "against": peer and {"workload": workload, "threads": threads, "store": peer}, "at_least": at_least, "at_most": at_most}


def served(file, workload, peer_workload, peer, at_least, **more):
    return {"file": f"served-{file}", "of": {"workload": workload, "store": "varve", **more},
            "against": {"workload": peer_workload, "store": peer}, "at_least": at_least, "at_most": None}


# The work, what it is measured against, and what is wanted.
TARGETS = [
    ("durable put, 1 thread", "the device's commits", engine("PutThroughput", 1, "device", 0.90)),
    ("durable put, 1 thread", "RocksDB", engine("PutThroughput", 1, "rocksdb", 1.5)),
    ("durable put, 16 blocking threads", "LevelDB", engine("PutThroughputParallel", 16, "leveldb", 2)),
    ("durable put, 64 blocking threads", "LevelDB", engine("PutThroughputParallel", 64, "leveldb", 2.5)),
    ("durable put with callbacks, 2 threads x 1,000", "LevelDB, 64 threads", engine("PutCallbacks", 2, "leveldb", 9)),
    ("async put, 1 thread", "LevelDB", engine("PutAsyncThroughput", 1, "leveldb", 2)),
    ("async put, 1 thread", "RocksDB", engine("PutAsyncThroughput", 1, "rocksdb", 4)),
    ("async put, 16 threads", "LevelDB", engine("PutAsyncParallel", 16, "leveldb", 2)),
    ("async put, 16 threads", "RocksDB", engine("PutAsyncParallel", 16, "rocksdb", 4)),
    *((f"get from the memtable, {n} thread{'s' * (n > 1)}", name, engine("GetMemtableHit", n, peer, ratio))
      for n in (1, 2) for name, peer, ratio in (("LevelDB", "leveldb", 2.5), ("LMDB", "lmdb", 1))),
    *((f"get from an SSTable, warm, 2 M keys, {n} thread{'s' * (n > 1)}", name, engine("GetSSTable", n, peer, ratio))
      for n in (1, 2) for name, peer, ratio in (("LevelDB", "leveldb", 2.5), ("LMDB", "lmdb", 1.2))),
    ("get of a missing key", "RocksDB", engine("GetMissing", 1, "rocksdb", 2)),
    ("cold get, 32 under way", "the device's random reads", engine("GetColdAsync", 1, "device", 0.90)),
    ("cold get, 16 blocking threads", "LMDB", engine("GetCold", 16, "lmdb", 1)),
    ("scans of 100 entries", "LevelDB", engine("Scan100", 1, "leveldb", 2)),
    ("scans of 100 entries", "LMDB", engine("Scan100", 1, "lmdb", 1.3)),
    ("mixed 50/50, zipfian, 2 threads", "LevelDB", engine("Mixed", 2, "leveldb", 2)),
    ("mixed 50/50, zipfian, 16 threads", "LevelDB", engine("Mixed", 16, "leveldb", 2)),
    ("reader beside a writer: the reader", "LevelDB", engine("ReadWhileWriting", 2, "leveldb", 3)),
    ("reader beside a writer: its p99.9", "LevelDB", engine("ReadWhileWriting.read-p99.9", 2, "leveldb", at_most=0.7)),
    ("reader beside a writer: the writer", "LevelDB", engine("ReadWhileWriting.writer", 2, "leveldb", 1.5)),
    ("fill with 1 KiB values until settled", "RocksDB", engine("Fill1K", 1, "rocksdb", 2)),
    ("its write amplification", "RocksDB", engine("Fill1K.write-amplification", 1, "rocksdb", at_most=1)),
    ("open after kill -9, 64 MiB of log", "LevelDB", engine("Recovery", 1, "leveldb", at_most=0.2)),
    ("unary Get through gRPC", "an empty handler", served("unary", "UnaryGet", "EmptyCall", "empty", 0.90)),
    ("unary async Put through gRPC", "an empty handler", served("unary", "UnaryPutAsync", "EmptyCall", "empty", 0.90)),
    ("unary durable Put through gRPC", "an empty handler", served("unary", "UnaryPut", "EmptyCall", "empty", 0.75)),
    ("unary durable Put through gRPC", "etcd", served("etcd", "UnaryPut", "UnaryPut", "etcd", 3)),
    ("Pipeline of gets, one stream", "unary Get", served("pipeline", "PipelineGet", "UnaryGet", "varve", 8, connections=1)),
    ("Pipeline of durable puts, one stream", "unary Put", served("pipeline", "PipelinePut", "UnaryPut", "varve", 8, connections=1)),
    ("resident memory at 50 M keys", "its configured bound", engine("Keys50M.memory-of-bound", 1, None, at_most=1.1)),
]


def find(results, file, wanted):
    """The run that is meant, and its result; of several results the newest."""
    for name, result in sorted(results.items(), key=lambda item: str(item[1]["machine"].get("time", "")), reverse=True):
        if file and name != file or not file and name.startswith("served-"):
            continue
        for run in result["runs"]:
            if run["rounds"] and all(run.get(field) == value for field, value in wanted.items()):
                return run, result
    return None, None


def figure(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def line(results, work, peer, target):
    of, result = find(results, target["file"], target["of"])
    against, same = find(results, target["file"], target["against"]) if target["against"] else (None, result)
    if not of or same is not result or target["against"] and not against:
        return None
    if against:
        ratio = statistics.median(of["rounds"]) / statistics.median(against["rounds"])
        each = [a / b for a, b in zip(of["rounds"], against["rounds"])]  # of one round: minutes apart, moods differ
        figures = f"{figure(statistics.median(of['rounds']))} : {figure(statistics.median(against['rounds']))} {of['unit']}"
    else:
        ratio, each, figures = statistics.median(of["rounds"]), of["rounds"], ""
    wanted, met = (f"at least {target['at_least']:g}", ratio >= target["at_least"]) if target["at_least"] is not None else \
        (f"at most {target['at_most']:g}", ratio <= target["at_most"])
    return f"| {work} | {peer} | {figures} | {ratio:.2f} ({min(each):.2f} - {max(each):.2f}) | {wanted} | {'met' if met else '**missed**'} |"


def targets(results):
    lines = [words for target in TARGETS if (words := line(results, *target))]
    if not lines:
        return ["Nothing is in perf/results yet."]
    return ["| work | against | medians | ratio (by round) | wanted | |", "| --- | --- | --- | --- | --- | --- |", *lines]


def sources(results):
    lines = ["| result | of | commit | kernel | cores | load at the start | rounds |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for name, result in sorted(results.items()):
        m = result["machine"]
        rounds = max(len(run["rounds"]) for run in result["runs"])
        lines.append(f"| [{name}](results/{name}.json) | {m.get('time', '')} | {result['commit']} | {m.get('kernel', '')} | {m.get('cores', '')} | "
                     f"{m.get('load', '')} | {rounds} |")
    return lines if results else []


def pictures():
    return [f"![{path.stem.replace('-', ' ')}](results/{path.name})" for path in sorted((HERE / "results").glob("*.svg"))]


def read_results(folder):
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def main():
    if sys.argv[1:] and sys.argv[1] != "--check":
        print("\n".join(targets(read_results(Path(sys.argv[1])))))
        return
    results = read_results(HERE / "results")
    before = text = README.read_text()
    for name, lines in (("targets", targets(results)), ("sources", sources(results)), ("pictures", pictures())):
        begin, end = f"<!-- {name}: made by ./dev perf table -->", f"<!-- end of {name} -->"
        head, rest = text.split(begin)
        text = "\n".join([head + begin, *lines, end]) + rest.split(end)[1]
    if "--check" in sys.argv[1:]:
        sys.exit(f"{README} is not what ./dev perf table makes of perf/results" if text != before else 0)
    README.write_text(text)


if __name__ == "__main__":
    main()
