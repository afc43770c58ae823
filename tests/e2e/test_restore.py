"""Archives and restores with the real programs: a backup, more writes, and back to a moment between."""

import json
import os
import pty
import subprocess
import time
import unittest

import test_follow
import varved
from varved import VARVE, Varved, refused, until


class Restore(unittest.TestCase):
    def setUp(self):
        self.work = varved.work_dir("restore")
        self.archive = self.work / "archive"

    def serve(self, *flags, data="data"):
        server = Varved(self.work / data, f"--wal-archive-dir={self.archive}", *flags)
        self.addCleanup(server.__exit__, None)
        return server

    def run_varve(self, *words, code=0, stdin=b""):
        done = subprocess.run([VARVE, *map(str, words)], input=stdin, capture_output=True, timeout=120,
                              env=varved.environment())
        self.assertEqual(done.returncode, code, done.stderr.decode())
        return done.stdout if code == 0 else done.stderr.decode()

    def ask(self, server, *words, **kwargs):
        return self.run_varve("--server", server.address, *words, **kwargs)

    def put(self, server, first, count, value):
        script = "".join(f"put key{i} {value}{i}\n" for i in range(first, first + count)).encode()
        return json.loads(self.ask(server, "batch", "--json", stdin=script))["lsn"]

    def stat(self, server, name):
        return json.loads(self.ask(server, "stats", "--json"))[name]

    def restore(self, dest, *words, backup="backup", code=0):
        out = self.run_varve("restore", self.work / backup, self.work / dest, "--json", *words, code=code)
        return json.loads(out) if code == 0 else out

    def contents(self, dest):
        """The entries, as a server that is started on them serves them."""
        with Varved(self.work / dest) as server:
            lines = self.ask(server, "scan").decode().splitlines()
            self.assertEqual(server.stop(), 0)
        return dict(line.split("\t") for line in lines)

    def moment(self, server, lsn):
        """A time that lies behind what is archived by now, and before what comes."""
        until(lambda: self.stat(server, "archive_last_lsn") >= lsn, f"LSN {lsn} is archived")
        time.sleep(0.02)  # the times of the archive are this exact
        now = time.time_ns() // 1_000_000
        time.sleep(0.02)
        return now

    def test_to_a_time_and_to_an_lsn(self):
        with self.serve() as server:
            self.put(server, 0, 50, "old")
            at_backup = json.loads(self.ask(server, "backup", "--fetch", self.work / "backup", "--json"))["lsn"]
            self.assertEqual(at_backup, 50)
            first = self.put(server, 50, 50, "more")
            between = self.moment(server, first)
            second = self.put(server, 0, 100, "new")
            self.ask(server, "delete", "key7")
            self.assertEqual(server.stop(), 0)
        expected = {f"key{i}": f"{'old' if i < 50 else 'more'}{i}" for i in range(100)}
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(between // 1000)) + f".{between % 1000:03}Z"
        for dest, words in (("a", ["--to-time", text]), ("b", ["--to-time", str(between)]),
                            ("c", ["--to-lsn", str(first)]), ("d", ["--to-lsn", str(second - 1), "--link"])):
            info = self.restore(dest, "--archive", self.archive, *words)
            self.assertEqual((info["backup_lsn"], info["lsn"], info["records"]), (at_backup, first, 1))
            self.assertLessEqual(info["unix_ms"], between)
            self.assertEqual(self.contents(dest), expected)
        self.assertEqual(self.restore("e", "--archive", self.archive)["lsn"], second + 1)
        expected = {f"key{i}": f"new{i}" for i in range(100) if i != 7}
        self.assertEqual(self.contents("e"), expected)
        self.assertEqual(self.restore("f")["lsn"], at_backup)
        self.assertEqual(self.contents("f"), {f"key{i}": f"old{i}" for i in range(50)})
        self.assertIn("EXISTS", self.restore("f", code=3))
        self.assertIn("behind the end of the archive", self.restore("g", "--archive", self.archive, "--to-lsn",
                                                                     str(second + 2), code=3))
        self.assertIn("before the backup's", self.restore("g", "--archive", self.archive, "--to-lsn", "49", code=3))
        self.assertIn("is no backup", self.restore("g", backup="archive", code=3))
        self.assertFalse((self.work / "g").exists())

    def test_a_server_that_was_killed_goes_on_archiving(self):
        lsn = 0
        for turn in range(4):
            with self.serve() as server:
                if turn == 0:
                    self.ask(server, "backup", "--fetch", self.work / "backup")
                lsn = self.put(server, turn * 10, 10, "value")
                server.kill()
        with self.serve() as server:
            self.assertEqual(self.stat(server, "archive_gaps"), 0)
            self.assertEqual(self.stat(server, "archive_failing"), 0)
            self.assertEqual(server.stop(), 0)
        self.assertEqual(self.restore("dest", "--archive", self.archive)["lsn"], lsn)
        self.assertEqual(self.contents("dest"), {f"key{i}": f"value{i}" for i in range(40)})

    def test_a_restored_server_goes_on_with_the_archive(self):
        with self.serve() as server:
            self.ask(server, "backup", "--fetch", self.work / "backup")
            first = self.put(server, 0, 10, "kept")
            self.put(server, 0, 20, "mistake")
            self.assertEqual(server.stop(), 0)
        self.restore("second", "--archive", self.archive, "--to-lsn", str(first))
        with self.serve(data="second") as server:
            last = self.put(server, 10, 1, "after")
            self.assertEqual(last, first + 1)
            self.assertEqual(server.stop(), 0)
        self.assertEqual(self.restore("third", "--archive", self.archive)["lsn"], last)
        self.assertEqual(self.contents("third"), {**{f"key{i}": f"kept{i}" for i in range(10)}, "key10": "after10"})

    def test_the_archive_of_another_database_is_refused(self):
        with self.serve() as server:
            self.put(server, 0, 1, "x")
            self.assertEqual(server.stop(), 0)
        code, words = refused(self.work / "other", f"--wal-archive-dir={self.archive}")
        self.assertEqual(code, 2)
        self.assertIn("another database", words)
        code, words = refused(self.work / "other", f"--wal-archive-dir={self.work}/no/such")
        self.assertEqual(code, 2)
        self.assertIn("WAL_ARCHIVE_DIR", words)

    def test_without_an_archive_the_log_is_not_held_for_it_any_more(self):
        with self.serve() as server:
            self.put(server, 0, 1, "x")
            self.assertEqual(self.stat(server, "slots"), 1)
            self.assertEqual(json.loads(self.ask(server, "status", "--json"))["replicas"], [])
            self.assertEqual(server.stop(), 0)
        with Varved(self.work / "data") as server:
            self.assertEqual(self.stat(server, "slots"), 0)
            self.assertIn("no WAL_ARCHIVE_DIR any more", server.stderr())
            self.assertEqual(server.stop(), 0)

    def test_archives_of_a_group_follow_it_through_a_fail_over(self):
        for in_tables in (False, True):
            with self.subTest(in_tables=in_tables), test_follow.Pair("archives") as p:
                self.fail_over(p, in_tables)

    def fail_over(self, p, in_tables):
        """The old primary archives writes that nobody else has, and comes back as a follower."""
        self.work = p.work
        p.a.start(f"--WAL_ARCHIVE_DIR={p.work}/archive-a")
        p.fill(p.ca, 50)
        self.ask(p.a, "backup", "--fetch", p.work / "backup-a")
        lsn = p.fill(p.ca, 50)
        p.b.start("--follow", p.group.link("b", "a").address, f"--WAL_ARCHIVE_DIR={p.work}/archive-b")
        self.assertIsNone(p.cb.get(b"none", min_lsn=lsn))
        self.ask(p.b, "backup", "--fetch", p.work / "backup-b")
        p.group.link("b", "a").cut()
        p.group.link("a", "b").cut()
        for i in range(30):
            lost = p.ca.put(b"lost%d" % i, b"of a alone")
        until(lambda: self.stat(p.a, "archive_last_lsn") >= lost, "what is to be lost is archived")
        if in_tables:
            p.ca.flush()
        p.a.kill()
        p.cb.promote(force=True)
        first = p.fill(p.cb, 10)
        self.assertLess(first, lost, "the old primary's is the longer log")
        p.group.heal()
        p.a.start()
        p.ca.await_following()
        last = p.fill(p.cb, 100)
        p.expect_equal(last)
        entries = p.cb.scan(last)
        gaps = self.stat(p.a, "archive_gaps")
        self.assertEqual(p.a.stop(), 0)
        self.assertEqual(p.b.stop(), 0)
        for name in "ab":
            words = ["--archive", p.work / f"archive-{name}"]
            if name == "a" and in_tables:
                # It was copied anew: its log begins behind the copy, and what lies before never was in it.
                self.assertGreaterEqual(gaps, 1)
                self.assertIn("are missing", self.restore("of-a", *words, backup="backup-a", code=3))
                continue
            info = self.restore(f"of-{name}", *words, backup=f"backup-{name}")
            self.assertEqual(info["lsn"], last)
            with Varved(p.work / f"of-{name}") as server:
                client = test_follow.Client(server)
                server.name = name
                self.assertEqual(client.scan(), entries)
                client.close()

    def test_progress_is_shown_on_a_terminal(self):
        with self.serve() as server:
            self.put(server, 0, 10, "x")
            self.ask(server, "backup", "--fetch", self.work / "backup")
            self.assertEqual(server.stop(), 0)
        ours, theirs = pty.openpty()
        with open(ours, "rb", buffering=0) as screen:
            done = subprocess.run([VARVE, "restore", self.work / "backup", self.work / "dest"], stderr=theirs,
                                  stdout=subprocess.PIPE, timeout=120, env=varved.environment())
            os.close(theirs)
            self.assertEqual(done.returncode, 0)
            self.assertRegex(screen.read(4096).decode(), r"restore: \[#*\.*\] +\d+ %, .* of ")
        self.assertIn(b"LSN 10", done.stdout)


if __name__ == "__main__":
    unittest.main()
