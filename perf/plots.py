#!/usr/bin/env python3
"""Draw what `./dev bench engine` and `./dev perf` have written: ./dev perf plots [FILE.json...]

For each perf/results/NAME.json, beside it: NAME-throughput.svg (medians as bars, the least and the most round as whiskers),
NAME-latency.svg (percentiles, where there are any) and NAME-size.svg (cost against the size of the data, where a
workload was run with several sizes). Matplotlib is installed in build/perf/venv. The background is a light card of the
picture's own, so that it reads the same on a dark page.
"""

import fcntl
import json
import math
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = ROOT / "build/perf/venv"


def enter_venv():
    """Go on in a Python that has matplotlib."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        return
    wanted = (HERE / "requirements.txt").read_text()
    mark = VENV / ".made-from"
    VENV.parent.mkdir(parents=True, exist_ok=True)
    with open(VENV.parent / "venv.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists() or mark.read_text() != wanted:
            print("perf: installing matplotlib in build/perf/venv", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
            subprocess.run([VENV / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r",
                            HERE / "requirements.txt"], check=True)
            mark.write_text(wanted)
    python = str(VENV / "bin/python")
    os.execv(python, [python, __file__, *sys.argv[1:]])


enter_venv()
import matplotlib  # noqa: E402
matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

# Okabe and Ito's colours, which those who are colour-blind can tell apart; what is no store of its own is grey.
COLOURS = {"varve": "#0072B2", "leveldb": "#E69F00", "lmdb": "#009E73", "rocksdb": "#CC79A7", "etcd": "#D55E00",
           "redis": "#56B4E9", "device": "#8A8A8A", "empty": "#8A8A8A"}
NAMES = {"varve": "Varve", "leveldb": "LevelDB", "lmdb": "LMDB", "rocksdb": "RocksDB", "etcd": "etcd", "redis": "Redis",
         "device": "the device", "empty": "empty handler"}
PERCENTILES = ("p50", "p90", "p99", "p999", "max")
INK, FAINT, CARD = "#1F2328", "#D0D7DE", "#FFFFFF"

plt.rcParams.update({"figure.facecolor": CARD, "axes.facecolor": CARD, "savefig.facecolor": CARD, "text.color": INK,
                     "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": FAINT,
                     "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold",
                     "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "varve"})


def colour(store):
    return COLOURS.get(store, "#6E5494")


def short(value, _=None):
    """12.3k and the like: what an axis has room for."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def size_label(value, _=None):
    for limit, letter in ((1 << 20, " MiB"), (1 << 10, " KiB")):
        if value >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g} B"


def setting(run):
    """What tells two runs of one workload and store apart, in words."""
    words = []
    if "connections" in run:
        words.append(f"{run['connections']} connection{'s' * (run['connections'] > 1)}")
        if run.get("streams", 1) > 1:
            words.append(f"x {run['streams']} streams")
    elif run.get("threads", 0) > 0:
        words.append(f"{run['threads']} thread{'s' * (run['threads'] > 1)}")
    if "rate" in run:
        words.append(f"at {short(run['rate'])} calls/s")
    if "value_bytes" in run:
        words.append(f"values of {size_label(run['value_bytes'])}")
    if "keys" in run:
        words.append(f"{short(run['keys'])} keys")
    return " ".join(words)


def panels_of(runs):
    """Runs side by side that do the same in different stores. If there are none such, all of a unit: workloads side by side."""
    panels = {}
    for run in runs:
        panels.setdefault((run["workload"], run["unit"], setting(run)), []).append(run)
    if any(len(panel) > 1 for panel in panels.values()):
        return panels
    settings = {setting(run) for run in runs}
    panels = {}
    for run in runs:
        panels.setdefault((None, run["unit"], settings.copy().pop() if len(settings) == 1 else ""), []).append(run)
    return panels


def label(run, panel, workload):
    """What a bar or a line is, beyond what its panel says."""
    words = [] if workload else [run["workload"]]
    if workload or run["store"] != "varve":
        words.append(NAMES.get(run["store"], run["store"]))
    if not workload and len({setting(r) for r in panel}) > 1:
        words.append(setting(run))
    return ", ".join(words)


def logarithmic(axis, values):
    """Ticks that have labels even where the axis is short."""
    values = [value for value in values if value]
    decades = math.log10(max(values) / min(values)) if values else 0
    axis.set_major_locator(LogLocator(base=10, subs=(1,) if decades > 2 else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(short))
    axis.set_minor_formatter(NullFormatter())


def legend(figure, axes):
    """One for all panels, beside them."""
    known = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels()):
            known.setdefault(name, handle)
    figure.legend(known.values(), known.keys(), loc="outside right center", frameon=False, fontsize=8.5)


def grid(count, width, height, columns=3):
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(max(width * columns, 7.5), height * rows + 0.9), squeeze=False,
                                layout="constrained")
    cells = [axis for row in axes for axis in row]
    for axis in cells[count:]:
        axis.axis("off")
    return figure, cells[:count]


def finish(figure, title, result, path, note):
    m = result["machine"]
    where = ", ".join(str(word) for word in (m.get("kernel"), f"{m['cores']} cores" if "cores" in m else None, m.get("time"),
                                             f"commit {result.get('commit', '?')}") if word)
    figure.suptitle(textwrap.fill(title, int(10 * figure.get_figwidth())), fontsize=12, fontweight="bold")
    figure.supxlabel(f"{note}\n{where}", fontsize=8, color="#57606A")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(f"perf: {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


def median(run):
    ordered = sorted(run["rounds"])
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def throughput(result, title, path):
    runs = [run for run in result["runs"] if run["rounds"] and "value_bytes" not in run and "rate" not in run]
    if not runs:
        return
    panels = panels_of(runs)
    most = max(len(panel) for panel in panels.values())
    figure, axes = grid(len(panels), 4.2, 0.75 + 0.3 * most, 1 if len(panels) < 3 and most > 3 else 3)
    for axis, ((workload, unit, words), panel) in zip(axes, panels.items()):
        for row, run in enumerate(panel):
            middle, least, best = median(run), min(run["rounds"]), max(run["rounds"])
            axis.barh(row, middle, color=colour(run["store"]), height=0.66,
                      xerr=[[middle - least], [best - middle]], error_kw={"ecolor": INK, "capsize": 2.5, "lw": 1})
            axis.annotate(short(middle), (best, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5)
        axis.set_yticks(range(len(panel)), [label(run, panel, workload) for run in panel])
        axis.set_ylim(len(panel) - 0.45, -0.55)
        axis.set_xlim(0, 1.22 * max(max(run["rounds"]) for run in panel) or 1)
        axis.xaxis.set_major_formatter(FuncFormatter(short))
        axis.set_xlabel({"ops/s": "operations per second"}.get(unit, unit))
        axis.set_title(", ".join(word for word in (workload, words) if word), loc="left")
        axis.grid(axis="x", color=FAINT, lw=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(length=0)
    rounds = max(len(run["rounds"]) for run in runs)
    finish(figure, title, result, path, f"bars: medians of {rounds} interleaved round{'s' * (rounds > 1)}; whiskers: the least and the most")


def latency(result, title, path):
    runs = [run for run in result["runs"] if run.get("latency_us")]
    if not runs:
        return
    panels = panels_of(runs)
    if any("rate" in run for run in runs):  # workloads and stores of one rate in one picture
        panels = {}
        for run in runs:
            panels.setdefault((None, run["unit"], setting(run)), []).append(run)
    figure, axes = grid(len(panels), 4.6 if len(panels) > 1 else 6.5, 3.1, 3 if len(panels) > 2 else 2)
    for axis, ((workload, _, words), panel) in zip(axes, panels.items()):
        workloads = list(dict.fromkeys(run["workload"] for run in panel))
        for run in panel:
            known = [p for p in PERCENTILES if p in run["latency_us"]]
            style = workloads.index(run["workload"])
            axis.plot([PERCENTILES.index(p) for p in known], [max(run["latency_us"][p], 0.01) for p in known],
                      color=colour(run["store"]), marker="os^Dv"[style % 5], ms=4, lw=1.5,
                      ls=("-", "--", ":", "-.")[style % 4], label=label(run, panel, workload))
        axis.set_yscale("log")
        logarithmic(axis.yaxis, [value for run in panel for value in run["latency_us"].values()])
        axis.set_xticks(range(len(PERCENTILES)), ["p50", "p90", "p99", "p99.9", "max"])
        axis.set_ylabel("latency, microseconds")
        axis.set_title(", ".join(word for word in (workload, words) if word), loc="left")
        axis.grid(color=FAINT, lw=0.6)
        axis.tick_params(length=0, which="both")
    legend(figure, axes)
    open_loop = any("rate" in run for run in runs)
    finish(figure, title, result, path, "open loop: counted from when each call was due" if open_loop else "over all rounds; logarithmic")


def cost_of_size(result, title, path):
    """Time and throughput against the bytes of a value, or the keys of the data."""
    by = next((field for field in ("value_bytes", "keys") if len({run[field] for run in result["runs"] if field in run}) > 1), None)
    if not by:
        return
    lines = {}
    for run in result["runs"]:
        if by in run and run["rounds"]:
            lines.setdefault((run["workload"], run["store"]), []).append(run)
    lines = {name: sorted(runs, key=lambda run: run[by]) for name, runs in lines.items() if len(runs) > 1}
    if not lines:
        return
    has_cpu = any("server_cpu_us_per_op" in run for runs in lines.values() for run in runs)
    units = dict.fromkeys(runs[0]["unit"] for runs in lines.values())
    pictures = [({"ops/s": "operations per second"}.get(unit, unit), lambda run, unit=unit: median(run) if run["unit"] == unit else None, True)
                for unit in units]
    if by == "value_bytes":
        pictures.append(("MB of values per second", lambda run: median(run) * run[by] / 1e6, False))
    if has_cpu:
        pictures.append(("server's CPU per operation, microseconds", lambda run: run.get("server_cpu_us_per_op"), False))
    figure, axes = grid(len(pictures), 4.6, 3.2)
    for axis, (what, figure_of, spread) in zip(axes, pictures):
        for style, ((workload, store), runs) in enumerate(lines.items()):
            runs = [run for run in runs if figure_of(run)]
            if not runs:
                continue
            x = [run[by] for run in runs]
            tint = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")[style % 4] if len({s for _, s in lines}) == 1 else colour(store)
            axis.plot(x, [figure_of(run) for run in runs], marker="os^D"[style % 4], ms=4, lw=1.5, color=tint,
                      label=workload if store == "varve" else f"{workload}, {NAMES.get(store, store)}")
            if spread:
                axis.fill_between(x, [min(run["rounds"]) for run in runs], [max(run["rounds"]) for run in runs],
                                  color=tint, alpha=0.15, lw=0)
        axis.set_xscale("log", base=2 if by == "value_bytes" else 10)
        axis.set_yscale("log")
        sizes = sorted({run[by] for runs in lines.values() for run in runs})
        axis.set_xticks(sizes, [size_label(value) if by == "value_bytes" else short(value) for value in sizes])
        axis.xaxis.set_minor_formatter(NullFormatter())
        logarithmic(axis.yaxis, [figure_of(run) for runs in lines.values() for run in runs])
        axis.set_xlabel("size of a value" if by == "value_bytes" else "keys in the store")
        axis.set_ylabel(what)
        axis.grid(color=FAINT, lw=0.6)
        axis.tick_params(length=0, which="both")
    legend(figure, axes)
    finish(figure, title, result, path, "medians; the shade is from the least round to the most; logarithmic")


def main():
    files = [Path(name).resolve() for name in sys.argv[1:]] or sorted((HERE / "results").glob("*.json"))
    for file in files:
        result = json.loads(file.read_text())
        name = re.sub(r"^served-", "server: ", file.stem)
        what = result.get("settings", {}).get("what") if isinstance(result.get("settings"), dict) else None
        title = (what or f"Varve, {name}").rstrip(".")
        for run in result["runs"]:
            if size := re.fullmatch(r"Keys(\d+)M(\..*)?", run["workload"]):  # of bench_engine
                run |= {"workload": f"Keys{size[2] or ''}", "keys": int(size[1]) * 1_000_000}
        throughput(result, title, file.with_name(f"{file.stem}-throughput.svg"))
        latency(result, title, file.with_name(f"{file.stem}-latency.svg"))
        cost_of_size(result, title, file.with_name(f"{file.stem}-size.svg"))
    if not files:
        sys.exit("perf: there is nothing in perf/results; ./dev perf and ./dev bench --peers engine --json write there")


if __name__ == "__main__":
    main()
