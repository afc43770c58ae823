#!/usr/bin/env python3
"""run.py - takes one safeguard at a time out of Varve, and sees whether the tests notice.

    NAME.patch --apply to a copy--> build what it touches --> its expected killers --> all other tests
                                                                  first failure: killed

A mutant is a unified diff behind a few words:

    What: what is taken away, in a line.
    Breaks: the claim that no longer holds.
    Killed-by: engine/test_wal_faults:a_failed_inline_write_latches

The last line may come several times; without ":name" all tests of the program are meant. A hunk has no line
numbers: the old text must be in its file exactly once. So a mutant survives edits near by, and one that no
longer applies is noticed by style/mutants, which runs `run.py --check`.

The copies are in build/mutants/<worker>/: the tree, and a debug build of the engine and its tests. A test
test that fails must pass with nothing taken away; only then does its failure count. A test that hangs fails, as
in ctest. Exit codes: 0 all killed, 1 one survives or does not build, 2 usage, or a test that fails anyway.
"""
import argparse
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "build" / "mutants"
RESULTS = WORK / "results.json"
README = HERE / "README.md"
SOURCES = ["CMakeLists.txt", "CMakePresets.json", "LICENSE", "cmake", "base", "io", "engine", "tests"]
MUTANTS_MIN = 25
TEST_SECONDS = 300


class Bad(Exception):
    pass


class Mutant:
    def __init__(self, path):
        self.name = path.stem
        self.words = {"What": [], "Breaks": [], "Killed-by": []}
        self.edits = []  # (file, old, new)
        lines = path.read_text().splitlines()
        at = 0
        while at < len(lines) and not lines[at].startswith("--- "):
            key, colon, text = lines[at].partition(": ")
            if colon and key in self.words:
                self.words[key].append(text)
            elif lines[at].startswith("  "):
                self.words[key_before][-1] += " " + lines[at].strip()
                key = key_before
            elif lines[at]:
                raise Bad(f"{self.name}: line {at + 1}: what is this? {lines[at]}")
            key_before = key
            at += 1
        file, old, new = None, [], []
        for line in lines[at:] + ["@@"]:
            if line.startswith(("--- ", "+++ ", "@@")) and (old or new):
                self.edits.append((file, "".join(old), "".join(new)))
                old, new = [], []
            if line.startswith("+++ b/"):
                file = line[6:]
            elif line.startswith(("--- ", "@@")):
                pass
            elif line[:1] in (" ", "-", "+", ""):
                if line[:1] != "+":
                    old.append(line[1:] + "\n")
                if line[:1] != "-":
                    new.append(line[1:] + "\n")
            else:
                raise Bad(f"{self.name}: what is this? {line}")

    @property
    def killers(self):
        return self.words["Killed-by"]

    def apply(self, tree):
        """What the files become: {path: text}. Changes nothing."""
        texts = {}
        for file, old, new in self.edits:
            path = tree / file
            text = texts.get(path) or path.read_text()
            if text.count(old) != 1:
                raise Bad(f"{self.name}: {file} has this {text.count(old)} times, not once:\n{old}")
            texts[path] = text.replace(old, new)
        return texts


def all_mutants():
    return [Mutant(p) for p in sorted(HERE.glob("*.patch"))]


def split_killer(killer):
    program, _, test = killer.partition(":")
    folder, _, module = program.partition("/")
    return folder, module, test


def check():
    """Every mutant is whole, applies, names tests that exist, and is in the README."""
    failures = []
    mutants = []
    for path in sorted(HERE.glob("*.patch")):
        try:
            mutants.append(Mutant(path))
        except Bad as e:
            failures.append(str(e))
    listed = re.findall(r"^\| `([a-z0-9_]+)` \|", README.read_text(), re.M)
    for m in mutants:
        try:
            if not m.apply(ROOT):
                raise Bad(f"{m.name}: changes nothing")
            for key, texts in m.words.items():
                if not texts:
                    raise Bad(f"{m.name}: no line '{key}: '")
            for killer in m.killers:
                folder, module, test = split_killer(killer)
                where = ROOT / "tests" / folder
                words = "".join(p.read_text() for p in where.glob("*.[ch]"))  # some come from lists
                if not (where / (module + ".c")).exists() or not re.search(rf"\b{test}\b", words):
                    raise Bad(f"{m.name}: there is no test {killer}")
            if listed.count(m.name) != 1:
                raise Bad(f"{m.name}: is {listed.count(m.name)} times in {README.name}, not once")
        except (Bad, OSError) as e:
            failures.append(str(e))
    failures += [f"{README.name}: there is no mutant {n}" for n in listed if n not in {m.name for m in mutants}]
    if len(mutants) < MUTANTS_MIN:
        failures.append(f"{len(mutants)} mutants, fewer than {MUTANTS_MIN}")
    for f in failures:
        print(f, file=sys.stderr)
    if not failures:
        print(f"{len(mutants)} mutants apply")
    return 1 if failures else 0


# ---- a copy of the tree and its build ----


class Copy:
    def __init__(self, number, ninja_jobs):
        self.tree = WORK / str(number) / "tree"
        self.out = WORK / str(number) / "out"
        self.tmp = WORK / str(number) / "tmp"
        self.ninja_jobs = ninja_jobs
        self.sound = {}  # killer -> does it pass with nothing taken away

    def refresh(self):
        """The tree as it is now; what did not change keeps its time."""
        wanted = set()
        for source in SOURCES:
            top = ROOT / source
            for path in [top] if top.is_file() else [p for p in top.rglob("*") if p.is_file()]:
                wanted.add(path.relative_to(ROOT))
        for path in wanted:
            self.write(self.tree / path, (ROOT / path).read_bytes())
            shutil.copymode(ROOT / path, self.tree / path)
        for path in [p for p in self.tree.rglob("*") if p.is_file()]:
            if path.relative_to(self.tree) not in wanted:
                path.unlink()
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.tmp.mkdir(parents=True)

    @staticmethod
    def write(path, data):
        if path.exists() and path.read_bytes() == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def configure(self):
        if not (self.out / "build.ninja").exists():
            subprocess.run(["cmake", "--log-level=WARNING", "-S", self.tree, "-B", self.out, "-G", "Ninja",
                            "-DCMAKE_BUILD_TYPE=Debug", "-DVARVE_SERVER=OFF", "-DVARVE_BENCH=OFF",
                            "-DVARVE_TESTS=ON"], check=True, stdout=sys.stderr)

    def build(self, targets):
        run = subprocess.run(["ninja", "-C", self.out, f"-j{self.ninja_jobs}", *targets],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return run.returncode == 0, run.stdout

    def programs(self):
        """All there are, what has the mutants' files first."""
        names = []
        for folder in ("sim", "engine", "io", "base"):
            names += [f"{folder}/{p.stem}" for p in sorted((self.tree / "tests" / folder).glob("test_*.c"))]
        return names

    def run(self, killer, seconds):
        """None: it passes; else the name of what failed first."""
        folder, module, test = split_killer(killer)
        program = self.out / "bin" / f"test_{folder}_{module.removeprefix('test_')}"
        command = [program, "--verbose=0", "-j1", "--fail-fast"]
        if test:
            command += ["--filter", f"*/{test}"]
        environment = dict(os.environ, TMPDIR=str(self.tmp))
        environment.setdefault("VARVE_TEST_SEED", "1")  # so that the next run sees the same
        process = subprocess.Popen(command, cwd=self.out, env=environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   errors="replace", start_new_session=True)
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return killer + " (hangs)"
        if process.returncode == 0:
            if test and re.search(r"Tested: \S*0\b", output):
                return killer + " (is no test)"
            return None
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.tmp.mkdir()
        failed = re.search(r"\[(?:FAIL|CRASH)\S*\] (\w+)::(\w+)", re.sub(r"\x1b\[[0-9;]*m", "", output))
        return f"{folder}/{module}:{failed[2]}" if failed else f"{folder}/{module}"


def target_of(killer):
    folder, module, _ = split_killer(killer)
    return f"test_{folder}_{module.removeprefix('test_')}"


def check_sound(copy, killers):
    """With nothing taken away these must pass: asked of a test when it has killed for the first time."""
    fresh = [k for k in killers if k not in copy.sound]
    if not fresh:
        return
    built, words = copy.build(sorted({target_of(k) for k in fresh}))
    if not built:
        raise Bad("the tree does not build:\n" + words[-4000:])
    for k in fresh:
        copy.sound[k] = copy.run(k, TEST_SECONDS) is None
        if not copy.sound[k]:
            raise Bad(f"{k} fails with nothing taken away")


def judge(copy, mutant, seconds, only_expected, each):
    """('killed' | 'survived' | 'does not build', the killing test or words)"""
    texts = mutant.apply(copy.tree)
    before = {path: path.read_bytes() for path in texts}
    deadline = time.monotonic() + seconds
    try:
        for path, text in texts.items():
            path.write_text(text)
        built, words = copy.build(sorted({target_of(k) for k in mutant.killers}))
        if not built:
            return "does not build", words[-2000:]
        missed = []
        for killer in mutant.killers:
            found = copy.run(killer, min(TEST_SECONDS, max(1, deadline - time.monotonic())))
            if found and not each:
                break
            if not found:
                missed.append(killer)
        else:
            found = None
        if each and len(missed) < len(mutant.killers):
            return "killed", "by all of them" if not missed else "but not by " + ", ".join(missed)
        if not found and only_expected:
            return "survived", "its expected killers alone were asked"
        expected = found is not None
        for program in [] if expected else copy.programs():
            if time.monotonic() > deadline:
                return "survived", "the time is up"
            built, words = copy.build([target_of(program)])
            if not built:
                return "does not build", words[-2000:]
            found = copy.run(program, min(TEST_SECONDS, max(1, deadline - time.monotonic())))
            if found:
                break
        else:
            if not expected:
                return "survived", "every test was asked"
    finally:
        for path, data in before.items():
            path.write_bytes(data)
    check_sound(copy, [found.split(" ")[0]])
    return "killed", found if expected else found + " (not expected)"


# ---- the command ----


def remember(results):
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known.update(results)
    RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True))


def write_readme():
    """The table of README.md from the results that there are."""
    known = json.loads(RESULTS.read_text())
    rows = ["| mutant | what is taken away | killed by |", "| --- | --- | --- |"]
    for m in all_mutants():
        verdict, by, _ = known.get(m.name, ("not run", "", 0))
        rows.append(f"| `{m.name}` | {m.words['What'][0].rstrip('.')} | "
                    f"{'`' + by + '`' if verdict == 'killed' else verdict} |")
    text = README.read_text()
    start, end = "<!-- by run.py --readme -->\n", "<!-- end -->\n"
    head, rest = text.split(start)
    README.write_text(head + start + "\n".join(rows) + "\n" + end + rest.split(end)[1])


def main():
    p = argparse.ArgumentParser(prog="./dev mutants", description="Take one safeguard at a time out of the "
                                "engine, and see whether the tests notice.")
    p.add_argument("names", nargs="*", metavar="NAME", help="mutants, by their names; all if none is named")
    p.add_argument("--list", action="store_true", help="say which there are")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="that many at a time, each in its own copy")
    p.add_argument("--seconds", type=int, default=1800, metavar="N", help="for each, at most (1800)")
    p.add_argument("--expected", action="store_true", help="ask the expected killers only")
    p.add_argument("--each", action="store_true", help="ask each of the expected killers, killed or not")
    p.add_argument("--check", action="store_true", help="only whether each applies and is listed")
    p.add_argument("--readme", action="store_true", help="write what the last runs saw into the README")
    o = p.parse_args()
    if o.check:
        return check()
    if o.readme:
        write_readme()
        return 0
    mutants = all_mutants()
    unknown = set(o.names) - {m.name for m in mutants}
    if unknown or o.jobs < 1:
        p.error(f"no mutant {', '.join(sorted(unknown))}" if unknown else "--jobs: 1 at least")
    if o.names:
        mutants = sorted((m for m in mutants if m.name in o.names), key=lambda m: o.names.index(m.name))
    if o.list:
        for m in mutants:
            print(f"{m.name:32} {m.words['What'][0]}")
        return 0

    todo, results, troubles, lock = queue.Queue(), {}, [], threading.Lock()
    for m in mutants:
        todo.put(m)

    def work(number):
        copy = Copy(number, max(1, (os.cpu_count() or 1) // o.jobs))
        try:
            copy.refresh()
            copy.configure()
            while not troubles:
                try:
                    m = todo.get_nowait()
                except queue.Empty:
                    return
                begun = time.monotonic()
                verdict, by = judge(copy, m, o.seconds, o.expected, o.each)
                took = round(time.monotonic() - begun)
                with lock:
                    results[m.name] = (verdict, by, took)
                    if not o.each:
                        remember({m.name: (verdict, by, took)})
                    print(f"{verdict:14} {m.name:32} {took:5d} s  {by}", flush=True)
        except (Bad, OSError, subprocess.CalledProcessError) as e:
            troubles.append(str(e))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(min(o.jobs, len(mutants)))]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    killed = sum(r[0] == "killed" for r in results.values())
    print(f"{killed} of {len(mutants)} mutants killed")
    for t in troubles:
        print(f"mutants: {t}", file=sys.stderr)
    if troubles:
        return 2
    return 0 if killed == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
