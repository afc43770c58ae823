"""The commands of varve that last: load, bench, repl and top, on a terminal and off it; completion and manual pages."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
import unittest

import varved
from test_cli import Caller, varve
from varved import VARVE, VARVED, Varved

SECONDS = 60


class Terminal:
    """A command on a terminal of its own. What it says piles up in self.text."""

    def __init__(self, *words, env=None, rows=40, columns=120):
        self.text = ""
        pid, self.fd = pty.fork()
        if pid == 0:
            os.environ.update(env or {})
            os.environ["TERM"] = "xterm"
            os.execv(VARVE, [str(VARVE), *map(str, words)])
        self.pid = pid
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def expect(self, pattern, seconds=SECONDS):
        """Wait until the pattern stands in what has not been expected yet; what stood before it."""
        end = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text)
            if found:
                before, self.text = self.text[:found.start()], self.text[found.end():]
                return before
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise AssertionError(f"no {pattern!r} in {self.text!r}")
            try:
                piece = os.read(self.fd, 65536)
            except OSError:  # the other side is closed
                piece = b""
            if not piece:
                raise AssertionError(f"it ended, and no {pattern!r} in {self.text!r}")
            self.text += piece.decode(errors="replace")

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self):
        """Its exit code."""
        end = time.monotonic() + SECONDS
        while True:
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"it does not end: {self.text!r}")
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def entries(count):
    return [(b"key %06d\t" % i + bytes([i % 256]), b"value %d" % i * (i % 7)) for i in range(count)]


def word(raw):
    return b'"' + b"".join(b"\\x%02x" % byte for byte in raw) + b'"'


class Live(Caller):
    def lines_of(self, *words, stdin):
        result = self.varve(*words, stdin=stdin)
        self.assertEqual((result.code, result.err), (0, ""), result.err)
        return result.out

    def test_load_takes_what_scan_writes(self):
        many = entries(9000)  # of more than two batches
        text = b"".join(word(key) + b"\t" + word(value) + b"\n" for key, value in many)
        done = json.loads(self.lines_of("load", "--json", stdin=text))
        self.assertEqual(done["entries"], len(many))
        self.assertEqual(done["bytes"], sum(len(key) + len(value) for key, value in many))
        plain = self.ok("scan", "--prefix", "key ")
        self.assertEqual(plain.count(b"\n"), len(many))
        self.assertEqual(self.ok("get", "--hex", many[4242][0].hex()).strip().decode(), many[4242][1].hex())
        for forms in ([], ["--hex"], ["--json"]):
            written = self.ok("scan", "--prefix", *(["6b657920"] if forms == ["--hex"] else ["key "]), *forms)
            self.ok("batch", stdin=b"".join(b"delete " + word(key) + b"\n" for key, _ in many))
            self.assertEqual(self.ok("scan", "--prefix", "key "), b"")
            (self.work / "entries").write_bytes(written)
            flags = ["--from-json"] if forms == ["--json"] else forms
            said = self.ok("load", self.work / "entries", "--async", *flags).decode()
            self.assertIn("9000 entries, ", said)
            self.assertEqual(self.ok("scan", "--prefix", "key "), plain)

    def test_a_load_that_fails_says_how_far_it_came(self):
        good = b"".join(b"l%05d\t%d\n" % (i, i) for i in range(5000))
        result = self.varve("load", stdin=good + b"l9\n" + good)
        self.assertEqual((result.code, result.out), (2, b""))
        self.assertIn("line 5001: there is no value", result.err)
        self.assertIn("--skip 5000 goes on", result.err)
        self.assertEqual(self.ok("scan", "--prefix", "l0", "--keys-only").count(b"\n"), 5000)
        done = json.loads(self.lines_of("load", "--json", "--skip", "5001", stdin=good + b"l9\n" + good))
        self.assertEqual(done["entries"], 5000)
        result = self.varve("load", stdin=b'"" nothing\n')  # what the database refuses
        self.assertEqual(result.code, 3)
        self.assertIn("KEY_EMPTY", result.err)
        self.assertIn("nothing was loaded", result.err)
        self.assertEqual(self.varve("load", "/no/such/file").code, 3)
        self.assertIn("only 1 lines", self.varve("load", "--skip", "2", stdin=b"a b\n").err)
        self.assertEqual(json.loads(self.lines_of("load", "--json", stdin=b""))["entries"], 0)

    def test_load_shows_on_a_terminal_how_far_it_is(self):
        path = self.work / "many"
        with open(path, "wb") as out:
            for i in range(600):
                out.write(b"big%04d\t" % i + b"x" * 50000 + b"\n")
        shown = Terminal(*self.target, "load", path)
        shown.expect(r"load: \[#*\.*\] +\d+ %, [0-9.]+ MiB of 28\.6 MiB, [0-9.]+ [KMG]iB/s")
        shown.expect(r"600 entries, 30004200 bytes in [0-9.]+ s")
        self.assertEqual(shown.end(), 0)

    def test_bench_measures_and_leaves_nothing(self):
        self.ok("put", "varve-bench", "not its own")
        for workload in ("put", "get", "mixed", "scan"):
            lines = self.ok("bench", "--workload", workload, "--duration", "300ms", "--keys", "2500", "--concurrency",
                            "4", "--json").decode().splitlines()
            last = json.loads(lines[-1])
            self.assertEqual((last["what"], last["failed"]), ("all", 0))
            self.assertGreater(last["calls"], 0)
            self.assertLessEqual(last["p50_us"], last["p99_us"])
            self.assertLessEqual(last["p999_us"], last["max_us"])
            self.assertEqual(self.ok("scan", "--prefix", "varve-bench:"), b"")
        self.assertEqual(self.ok("get", "varve-bench"), b"not its own")
        self.ok("bench", "--duration", "100ms", "--keys", "10", "--value-size", "1000", "--keep", "--workload", "get")
        kept = self.ok("scan", "--prefix", "varve-bench:").decode().splitlines()
        self.assertEqual(len(kept), 10)

    def test_bench_by_the_clock_and_cut_short(self):
        text = self.ok("bench", "--rate", "200", "--duration", "1500ms", "--concurrency", "3", "--async").decode()
        rate = float(re.search(r"all +(\d+) calls/s", text).group(1))
        self.assertTrue(100 < rate <= 210, text)
        self.assertEqual(len(text.splitlines()), 3)
        shown = Terminal(*self.target, "bench", "--duration", "3600s", "--rate", "1", "--concurrency", "2")
        shown.expect("1 s ")
        shown.type("\x03")
        shown.expect(r"all .* calls/s")
        self.assertEqual(shown.end(), 0)
        self.assertEqual(self.ok("scan", "--prefix", "varve-bench:"), b"")

    def test_repl_from_a_file(self):
        script = (b'put one "1 \\x00"\nGET one\nput "two words" \'x\\x\'\nScan t\nscan "" 1\n\n# a comment\n'
                  b"delete one\nget one\nstats LAST_\nhelp\nexit\nput never done\n")
        result = self.varve("repl", stdin=script)
        text = result.out.decode()
        self.assertEqual(result.code, 1, result.err)  # not found
        self.assertEqual(result.err, "")
        self.assertEqual(re.sub(r"LSN \d+", "LSN n", text).splitlines()[:7],
                         ["OK, LSN n", "1\\x20\\x00", "OK, LSN n", "two\\x20words\tx\\\\x", text.splitlines()[4],
                          "OK, LSN n", "not found"])
        self.assertRegex(text, r"(?m)^last_lsn \d+$")
        self.assertIn("SCAN [PREFIX [LIMIT]]", text)
        self.missing("never")
        result = self.varve("repl", stdin=b'nonsense\nput a\nput a "b\nscan a 0\nput "" x\n\nget two\\ words')
        self.assertEqual(result.code, 2)
        self.assertEqual(result.out, b"x\\\\x\n")
        for words in ("no such command", "it is: PUT KEY VALUE", 'a " is not closed', "LIMIT is a number", "KEY_EMPTY"):
            self.assertIn(words, result.err)
        result = self.varve("repl", "--hex", stdin=b"put 00ff 61\nget 00ff\nget 0\n")
        self.assertEqual(result.out.splitlines()[1], b"61")
        self.assertIn("not hexadecimal", result.err)

    def test_repl_for_a_person(self):
        history = self.work / "history"
        env = {"VARVE_HISTORY": str(history)}
        shown = Terminal(*self.target, "repl", env=env)
        shown.expect("HELP lists the commands.*\n")
        shown.expect("varve> ")
        shown.type('put person:alice "some \\x1b value"\n')
        shown.expect(r"OK, LSN \d+ +\([0-9.]+ [mu]?s\)\r?\n")
        shown.type("put person:bob x\n")
        shown.expect("OK, LSN")
        shown.expect("varve> ")
        shown.type("ge\tper\t\t")  # completes commands, and keys as far as they agree
        shown.expect(r"person:alice +person:bob")
        shown.type("a\t\n")
        shown.expect("lice")
        answer = shown.expect(r" +\([0-9.]+ [mu]?s\)")
        self.assertTrue(answer.endswith("some\\x20\\x1b\\x20value"), answer)
        shown.expect("varve> ")  # from now on Ctrl-C is the line's
        shown.type("this line is left")
        shown.expect("left")
        shown.type("\x03")
        shown.expect("varve> ")
        shown.type("\x10\x10\n")  # Ctrl-P twice: what was put last
        shown.expect("OK, LSN")
        shown.type("scan person:\n")
        shown.expect("2 entries")
        shown.expect("varve> ")  # before that a Ctrl-D would be the line discipline's
        shown.type("\x04")
        self.assertEqual(shown.end(), 0)
        self.assertIn("person", history.read_text())
        self.assertEqual(history.stat().st_mode & 0o777, 0o600)
        again = Terminal(*self.target, "repl", env=env)
        again.expect("varve> ")
        again.type("\x10\n")
        again.expect("2 entries")
        again.type("exit\n")
        self.assertEqual(again.end(), 0)


class ThroughTheServer(Live, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = varved.work_dir("live-server")
        cls.server = Varved(cls.work / "data")
        cls.addClassCleanup(cls.server.__exit__, None)
        cls.address = cls.server.addresses[0]
        cls.target = ["--server", cls.address]

    def setUp(self):
        left = self.ok("scan", "--keys-only").splitlines()
        if left:
            self.ok("batch", stdin=b"".join(b"delete " + key + b"\n" for key in left))

    def test_top_once(self):
        self.ok("top", "--once", "--interval", "100ms")  # from now on calls are counted
        bench = subprocess.Popen([VARVE, *self.target, "bench", "--workload", "mixed", "--duration", "3600s"],
                                 stdout=subprocess.PIPE, text=True)
        try:
            self.assertIn("1 s", bench.stdout.readline())
            text = self.ok("top").decode()
        finally:
            bench.send_signal(signal.SIGINT)
            bench.communicate(timeout=SECONDS)
        self.assertEqual(bench.returncode, 0)
        self.assertIn(f"{self.address}: primary, serving", text)
        rates = dict(re.findall(r"(?m)^(KV\.\w+) +(\d+) +0 +[0-9.]+ [mu]?s", text))
        self.assertGreater(int(rates["KV.Get"]), 0)
        self.assertGreater(int(rates["KV.Put"]), 0)
        self.assertRegex(text, r"LOG +[1-9]\d* commits/s")
        for part in ("MEMTABLES", "LEVELS", "L0 ", "COMPACTION", "CACHE", "MEMORY"):
            self.assertIn(part, text)
        self.assertTrue(all(len(line) <= 100 for line in text.splitlines()), text)

    def test_top_on_a_terminal(self):
        shown = Terminal(*self.target, "top", "--interval", "100ms", rows=12, columns=40)
        shown.expect(re.escape("\x1b[?1049h"))
        shown.expect("primary, ")
        for _ in range(3):
            frame = shown.expect(re.escape("\x1b[J"))
        lines = frame.replace("\x1b[H", "").split("\x1b[K\r\n")
        self.assertTrue(all(len(line) <= 40 for line in lines), lines)
        self.assertLessEqual(len(lines), 12)
        shown.type("xq")
        shown.expect(re.escape("\x1b[?1049l"))
        self.assertEqual(shown.end(), 0)

    def test_a_server_that_goes_away(self):
        with Varved(self.work / "other") as other:
            target = ["--server", other.addresses[0]]
            shown = Terminal(*target, "top", "--interval", "100ms")
            shown.expect("primary, ")
            repl = Terminal(*target, "repl", env={"VARVE_HISTORY": ""})
            repl.expect("varve> ")
        shown.expect(re.escape("\x1b[?1049l"))
        shown.expect("varve: top: (UNAVAILABLE|CANCELLED)")  # the latter if a look was under way
        self.assertEqual(shown.end(), 3)
        repl.type("get a\n")
        repl.expect("UNAVAILABLE")
        repl.expect("varve> ")
        repl.type("\x04")
        self.assertEqual(repl.end(), 0)
        result = varve(*target, "bench", "--duration", "100ms", "--concurrency", "1")
        self.assertEqual(result.code, 3)
        self.assertRegex(result.err, r"\d+ calls failed, the first with UNAVAILABLE")
        result = varve(*target, "load", "--timeout", "300ms", stdin=b"a b\n")
        self.assertEqual(result.code, 3)
        self.assertIn("UNAVAILABLE", result.err)

    def test_a_load_waits_for_a_server_that_comes_back(self):
        data = self.work / "back"
        with Varved(data) as first:
            address = first.addresses[0]
        load = subprocess.Popen([VARVE, "--server", address, "load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)
        load.stdin.write(b"patient\tyes\n")
        load.stdin.close()
        with Varved(data, listen=(address,)):
            self.assertEqual(load.wait(timeout=SECONDS), 0, load.stderr.read())
            self.assertEqual(varve("--server", address, "get", "patient").out, b"yes")
        load.stdout.close()
        load.stderr.close()


class InProcess(Live, unittest.TestCase):
    def setUp(self):
        self.work = varved.work_dir("live-data")
        self.target = ["--data", self.work / "data"]
        self.ok("put", "aa", "there is one")
        self.ok("delete", "aa")

    def test_repl_makes_no_database(self):
        result = varve("--data", self.work / "none", "repl", stdin=b"get a\n")
        self.assertEqual(result.code, 3)
        self.assertFalse((self.work / "none").exists())


class Words(unittest.TestCase):
    def complete(self, *words):
        """What bash offers for the last word."""
        script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()\n'
                  '"_$1" 2>/dev/null; printf "%s\\n" "${COMPREPLY[@]}"')
        done = subprocess.run(["bash", "-c", script, "-", self.bash, *words], cwd=self.work, capture_output=True,
                              check=True, text=True)
        return done.stdout.split()

    @classmethod
    def setUpClass(cls):
        cls.work = varved.work_dir("words")
        cls.bash = cls.work / "completion.bash"
        cls.bash.write_bytes(varve("completion", "bash").out)
        (cls.work / "there").mkdir()
        (cls.work / "there.pem").touch()

    def test_bash(self):
        self.assertIn("scan", self.complete("varve", ""))
        self.assertEqual(self.complete("varve", "--data", "d", "sc"), ["scan"])
        self.assertEqual(self.complete("varve", "--data", "=", "d", "sc"), ["scan"])
        self.assertEqual(self.complete("varve", "scan", "--pre"), ["--prefix"])
        self.assertNotIn("--prefix", self.complete("varve", "put", "--"))
        self.assertIn("--server", self.complete("varve", "put", "--"))
        self.assertEqual(self.complete("varve", "bench", "--workload", "m"), ["mixed"])
        self.assertEqual(self.complete("varve", "bench", "--workload", "=", "m"), ["mixed"])
        self.assertEqual(self.complete("varve", "completion", ""), ["bash", "zsh"])
        self.assertEqual(self.complete("varve", "--data", "th"), ["there"])
        self.assertEqual(self.complete("varve", "verify", "th"), ["there"])
        self.assertEqual(self.complete("varve", "--tls-ca", "there."), ["there.pem"])
        self.assertEqual(self.complete("varve", "--limit", ""), [])
        self.assertEqual(self.complete("varved", "--memtable-t"), ["--memtable-type="])
        self.assertEqual(self.complete("varved", "--tls-cert", "=", "there."), ["there.pem"])
        self.assertEqual(self.complete("varved", "--backup-dir", "=", "th"), ["there"])

    @unittest.skipUnless(shutil.which("zsh"), "there is no zsh")
    def test_zsh(self):
        script = self.work / "completion.zsh"
        script.write_bytes(varve("completion", "zsh").out)
        # A shell on a terminal of its own completes a line, which is then read back.
        test = ("zmodload zsh/zpty; zpty z zsh -f -i\n"
                "zpty -w z \"autoload -Uz compinit; compinit -u -d $1/dump; source $1/completion.zsh; "
                "show() { print -r -- \\\"LINE<\\$BUFFER>\\\" }; zle -N show; bindkey ^X show; print RE''ADY\"\n"
                "zpty -r -m z text '*READY*'\n"
                "zpty -w -n z $2$'\\t\\x18'\n"
                "zpty -r -m z text '*LINE<*>*'; print -r -- $text; zpty -d z")
        for line, completed in (("varve sca", "LINE<varve scan >"), ("varve bench --work", "LINE<varve bench --workload=>"),
                                ("varve completion z", "LINE<varve completion zsh >"),
                                ("varved --wal-buf", "LINE<varved --wal-buffer-size=>")):
            done = subprocess.run(["zsh", "-f", "-c", test, "-", self.work, line], capture_output=True, text=True,
                                  timeout=SECONDS, env={**os.environ, "TERM": "dumb", "HOME": str(self.work)})
            self.assertIn(completed, done.stdout, done.stderr)

    def test_manual_pages(self):
        page = varve("--help=man").out.decode()
        self.assertTrue(page.startswith(".TH VARVE 1 "), page[:80])
        server = subprocess.run([VARVED, "--help=man"], stdout=subprocess.PIPE, check=True, text=True).stdout
        self.assertTrue(server.startswith(".TH VARVED 8 "), server[:80])
        for command in ("load", "repl", "top", "bench", "completion SHELL"):
            self.assertRegex(page, rf'(?m)^\.SS "{command}')
        for key in ("MEMTABLE_SIZE", "METRICS_LISTEN", "IO_BACKEND"):
            self.assertIn(f".B {key}\n", server)
        if shutil.which("groff"):
            for text in (page, server):
                done = subprocess.run(["groff", "-man", "-ww", "-Tascii"], input=text, capture_output=True, check=True,
                                      text=True)
                self.assertEqual(done.stderr, "")


if __name__ == "__main__":
    unittest.main(verbosity=2)
