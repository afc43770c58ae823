#!/usr/bin/env python3
"""Instructions per operation, which do not depend on the machine's mood, against what perf/budget.json allows.

    budget.py [--build DIR] [WORK...]         compare, and fail where one takes over 5 % more than its budget
    budget.py [--build DIR] --write [WORK...] measure, and make that the budget

Each work (budget.c) runs N and 2N times under callgrind, and the difference counts: what happens once, like an
allocation that stays, drops out. The release build is counted, since that is what users run. Where valgrind is missing, or another compiler or processor would count
otherwise, this says loudly that it is skipped (exit code 77).
"""

import argparse
import concurrent.futures
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUDGETS = ROOT / "perf/budget.json"
SLACK = 0.05
# Enough that a block or a page more or less does not count.
COUNT = {"put": 400, "write_100": 50, "scan_100": 50, "decode_pipeline_100": 50}
COUNT_OF_OTHERS = 1000
TIMEOUT_S = 300


def skip(why):
    print(f"\n*** SKIPPED: no instructions were counted: {why}\n", file=sys.stderr)
    sys.exit(77)


def compiler(build):
    """What the build was made with, which counts depend on."""
    cc = re.search(r"^CMAKE_C_COMPILER:[A-Z]+=(.*)$", (build / "CMakeCache.txt").read_text(), re.M)[1]
    version = subprocess.run([cc, "-dumpfullversion"], capture_output=True, text=True).stdout.strip()
    return f"{Path(cc).name} {version.split('.')[0]}, {platform.machine()}"


def make(build):
    """The program, from what is in the tree now."""
    configure = ["cmake", "--log-level=WARNING", "--preset", "release", "-DVARVE_BENCH=ON"]
    jobs = str(os.cpu_count() or 1)
    steps = [configure] if build == ROOT / "build/release" else []
    for step in [*steps, ["cmake", "--build", build, "--target", "perf_budget", "-j", jobs]]:
        done = subprocess.run(step, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{done.stdout}{done.stderr}\nbudget: {step[0]} ended with {done.returncode}")


def instructions(program, work, count):
    """That `count` operations take."""
    with tempfile.TemporaryDirectory(prefix="budget-", dir=program.parent.parent) as place:
        out = Path(place) / "callgrind"
        done = subprocess.run(["valgrind", "--tool=callgrind", "--toggle-collect=counted", f"--callgrind-out-file={out}",
                               program, work, str(count)], capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode != 0:
            sys.exit(f"{done.stderr}\nbudget: {work} under valgrind ended with {done.returncode}")
        return int(re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.M)[1])


def per_operation(program, work):
    count = COUNT.get(work, COUNT_OF_OTHERS)
    return (instructions(program, work, 2 * count) - instructions(program, work, count)) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build/release")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("work", nargs="*")
    args = parser.parse_args()
    if not shutil.which("valgrind"):
        skip("there is no valgrind (Debian: valgrind)")
    build = args.build.resolve()
    make(build)
    program = build / "bin/perf_budget"
    works = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    if unknown := set(args.work) - set(works):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are: {', '.join(works)}")
    budgets = json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}
    toolchain = compiler(build)
    if not args.write and budgets["compiler"] != toolchain:
        skip(f"the budgets are of {budgets['compiler']}, this is {toolchain}")
    works = [work for work in works if not args.work or work in args.work]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        counted = dict(zip(works, pool.map(lambda work: per_operation(program, work), works)))
    over = []
    print(f"{'instructions per operation':28}{'now':>10}{'budget':>10}")
    for work, now in counted.items():
        allowed = budgets.get("instructions", {}).get(work)
        ratio = now / allowed if allowed else None
        words = "no budget" if ratio is None else f"{100 * (ratio - 1):+.1f} %"
        if ratio is not None and ratio < 1 - SLACK:
            words += "  (won: keep it with ./dev perf budget --write)"
        print(f"{work:28}{now:10.0f}{allowed or 0:10.0f}  {words}")
        if ratio is None or ratio > 1 + SLACK:
            over.append(work)
    if args.write:
        kept = {**budgets.get("instructions", {}), **{work: round(now) for work, now in counted.items()}}
        BUDGETS.write_text(json.dumps({"compiler": toolchain, "instructions": kept}, indent=2) + "\n")
        print(f"written to {BUDGETS.relative_to(ROOT)}")
    elif over:
        sys.exit(f"FAILED: more than {SLACK:.0%} over its budget, or without one: {', '.join(over)}. "
                 f"If that is worth it: ./dev perf budget --write {' '.join(over)}, and say why in the commit.")


if __name__ == "__main__":
    main()
