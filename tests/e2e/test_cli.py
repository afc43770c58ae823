"""The varve command against a real server and, with --data, in process: outputs, bytes, exit codes."""

import base64
import json
import os
import subprocess
import unittest

import varved
from varved import VARVE, Varved


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err.decode(errors="replace")


def varve(*words, stdin=b"", env=None, **kwargs):
    done = subprocess.run([VARVE, *words], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=120, env={**os.environ, **(env or {})}, **kwargs)
    return Result(done.returncode, done.stdout, done.stderr)


ALL_BYTES = bytes(range(256))


class Caller:
    """self.target is the option that names the server or the directory."""

    def varve(self, *words, **kwargs):
        return varve(*self.target, *words, **kwargs)

    def ok(self, *words, **kwargs):
        result = self.varve(*words, **kwargs)
        self.assertEqual((result.code, result.err), (0, ""), result.err)
        return result.out

    def missing(self, *words):
        result = self.varve("get", *words)
        self.assertEqual((result.code, result.out), (1, b""))
        self.assertIn("not found", result.err)

    def scan(self, *words):
        return self.ok("scan", *words).decode().splitlines()


class Commands(Caller):
    """What both ways of reaching a database do alike."""

    def test_scan(self):
        left = self.ok("scan", "--keys-only").splitlines()  # by other tests on the same server
        if left:
            self.ok("batch", stdin=b"".join(b"delete " + key + b"\n" for key in left))
        self.ok("put", "first", "one")
        self.ok("batch", stdin=b"put a 1\nput ab 2\nput b\\x00 \"3\\n\"\nput c \"\"\nput gone x\n")
        self.ok("delete", "gone")
        everything = ["a\t1", "ab\t2", "b\\x00\t3\\x0a", 'c\t""', "first\tone"]
        for _ in range(2):  # in memory, and then in a table
            self.assertEqual(self.scan(), everything)
            self.assertEqual(self.scan("--reverse"), everything[::-1])
            self.assertEqual(self.scan("--prefix", "a"), everything[:2])
            self.assertEqual(self.scan("--start", "ab", "--end", "c"), everything[1:3])
            self.assertEqual(self.scan("--limit", "2", "--keys-only"), ["a", "ab"])
            self.assertEqual(self.scan("--start", "6100", "--limit", "1", "--hex"), ["6162\t32"])
            entry = json.loads(self.ok("scan", "--prefix", "a", "--limit", "1", "--json"))
            self.assertEqual((entry["key"], entry["value"], entry.keys()), ("YQ==", "MQ==", {"key", "value", "lsn"}))
            self.ok("compact")
        again = ["--data", self.work / "again"]
        script = "".join("put %s %s\n" % tuple(line.split("\t")) for line in everything).encode()
        self.assertEqual(varve(*again, "batch", stdin=script).code, 0)
        self.assertEqual(varve(*again, "scan").out.decode().splitlines(), everything, "batch takes what scan writes")
        for words in (["--limit", "0"], ["--limit", "x"], ["--hex", "--start", "zz"], ["extra"]):
            self.assertEqual(self.varve("scan", *words).code, 2, words)
        self.assertEqual(self.varve("scan", "--start", "b", "--end", "a").code, 3)
        self.assertEqual(self.varve("get", "a", "--reverse").code, 2)

    def test_put_get_delete(self):
        self.assertEqual(self.ok("put", "k", "value"), b"")
        self.assertEqual(self.ok("get", "k"), b"value", "as it is, without a newline")
        self.assertEqual(self.ok("delete", "k"), b"")
        self.missing("k")
        self.assertEqual(self.ok("delete", "k"), b"", "that it is not there is no error")

    def test_an_empty_value_is_not_a_missing_one(self):
        self.ok("put", "empty", "")
        self.assertEqual(self.ok("get", "empty"), b"")

    def test_any_byte_in_keys_and_values(self):
        self.ok("put", "--hex", ALL_BYTES.hex(), ALL_BYTES[::-1].hex())
        self.assertEqual(self.ok("get", "--hex", ALL_BYTES.hex()), ALL_BYTES[::-1].hex().encode() + b"\n")
        self.ok("put", "bytes", "-", stdin=ALL_BYTES * 1000)
        self.assertEqual(self.ok("get", "bytes"), ALL_BYTES * 1000)
        key = b"\xff\xfe \n\t"
        self.ok("put", key, b"\x80\x81")
        self.assertEqual(self.ok("get", "--hex", key.hex()), b"8081\n")
        self.ok("put", "--", "-k", "-v")
        self.assertEqual(self.ok("get", "--", "-k"), b"-v")

    def test_values_from_files(self):
        path = self.work / "value"
        value = os.urandom(20 << 20)
        path.write_bytes(value)
        self.ok("put", "file", "--value-file", path)
        self.assertEqual(self.ok("get", "file"), value)
        self.ok("put", "file", "--value-file", "-", stdin=b"from stdin")
        self.assertEqual(self.ok("get", "file"), b"from stdin")
        result = self.varve("put", "file", "--value-file", self.work / "none")
        self.assertEqual(result.code, 3)
        self.assertIn("No such file", result.err)

    def test_json(self):
        first = json.loads(self.ok("put", "j", "x", "--json"))["lsn"]
        self.assertEqual(json.loads(self.ok("put", "j", "-", "--json", stdin=ALL_BYTES))["lsn"], first + 1)
        self.assertEqual(json.loads(self.ok("get", "j", "--json")),
                         {"found": True, "key": "ag==", "value": base64.b64encode(ALL_BYTES).decode(), "lsn": first + 1})
        self.assertEqual(json.loads(self.ok("get", "6a", "--json", "--hex"))["value"], ALL_BYTES.hex())
        self.assertEqual(json.loads(self.ok("delete", "j", "--json")), {"lsn": first + 2})
        result = self.varve("get", "j", "--json")
        self.assertEqual((result.code, json.loads(result.out)), (1, {"found": False, "key": "ag=="}))

    def test_batch(self):
        self.ok("put", "gone", "soon")
        script = b"# a script\nput a 1\nput \"a key\" 'two words'\n\nput \\x00\\xff \"line\\nbreak\"\r\ndelete gone\nput a 2\n"
        answer = json.loads(self.ok("batch", "--json", stdin=script))
        self.assertEqual(answer["operations"], 5)
        self.assertEqual(json.loads(self.ok("get", "a", "--json"))["lsn"], answer["lsn"])
        self.assertEqual(self.ok("get", "a"), b"2", "the later line wins")
        self.assertEqual(self.ok("get", "a key"), b"two words")
        self.assertEqual(self.ok("get", "00ff", "--hex"), b"line\nbreak".hex().encode() + b"\n")
        self.missing("gone")

    def test_a_batch_is_all_or_nothing(self):
        result = self.varve("batch", stdin=b"put before 1\nput \"\" 2\n")
        self.assertEqual(result.code, 3)
        self.assertIn("INVALID_ARGUMENT (KEY_EMPTY): ", result.err)
        self.missing("before")
        for script, words in [(b"put before 1\nput b\n", "line 2"), (b"", "no operation"), (b"# only\n", "no operation")]:
            result = self.varve("batch", stdin=script)
            self.assertEqual(result.code, 2)
            self.assertIn(words, result.err)
        self.missing("before")

    def test_async_writes_are_readable_at_once(self):
        self.ok("put", "--async", "soon", "durable")
        self.assertEqual(self.ok("get", "soon"), b"durable")
        self.ok("delete", "--async", "soon")
        self.missing("soon")

    def test_what_is_refused_says_why(self):
        result = self.varve("put", "", "v")
        self.assertEqual((result.code, result.out), (3, b""))
        self.assertRegex(result.err, r"^varve: put: INVALID_ARGUMENT \(KEY_EMPTY\): .+\n$")
        result = self.varve("get", "k" * 65536)
        self.assertIn("(KEY_TOO_LONG)", result.err)
        result = self.varve("put", "k", "-", stdin=bytes((32 << 20) + 1))
        self.assertEqual(result.code, 3)
        self.assertIn("(VALUE_TOO_LARGE)", result.err)
        self.ok("put", "k", "-", stdin=bytes(32 << 20))
        self.assertEqual(self.ok("get", "k"), bytes(32 << 20))

    def test_usage_errors_touch_nothing(self):
        for words in (["get"], ["gett", "k"], ["put", "k"], ["get", "k", "--no-such"], ["put", "--hex", "0", "00"], []):
            with self.subTest(words=words):
                result = self.varve(*words)
                self.assertEqual((result.code, result.out), (2, b""))
                self.assertTrue(result.err.startswith("varve: "))

    def test_an_answer_that_cannot_be_written_is_a_failure(self):
        self.ok("put", "full", "x" * 100)
        with open("/dev/full", "wb") as full:
            done = subprocess.run([VARVE, *self.target, "get", "full"], stdout=full, stderr=subprocess.PIPE,
                                  timeout=60)
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"standard output", done.stderr)


class ThroughTheServer(Commands, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = varved.work_dir("cli-server")
        cls.socket = f"unix:{cls.work}/socket"
        cls.server = Varved(cls.work / "data", listen=("127.0.0.1:0", cls.socket))
        cls.addClassCleanup(cls.server.__exit__, None)
        cls.address = next(address for address in cls.server.addresses if address != cls.socket)
        cls.target = ["--server", cls.address]

    def test_where_the_server_is(self):
        self.ok("put", "where", "here")
        self.assertEqual(varve("get", "where", env={"VARVE_SERVER": self.address}).out, b"here")
        self.assertEqual(varve("get", "where", "--server", self.socket).out, b"here")
        result = varve("get", "where", env={"VARVE_SERVER": "nonsense"})
        self.assertEqual(result.code, 2)
        self.assertIn("VARVE_SERVER", result.err)

    def test_health(self):
        self.assertEqual(self.ok("health"), b"SERVING\n")
        self.assertEqual(self.ok("health", "varve.v1.KV"), b"SERVING\n")
        self.assertEqual(json.loads(self.ok("health", "--json")), {"status": "SERVING"})
        result = self.varve("health", "no.Such")
        self.assertEqual(result.code, 3)
        self.assertIn("NOT_FOUND", result.err)

    def test_watch(self):
        first = json.loads(self.ok("put", "w1", "a b", "--json"))["lsn"]
        self.ok("delete", "w1")
        self.ok("batch", stdin=b"put w2 \"\"\nput other x\nput w3 \\xff\n")
        lines = [f"{first}\tput\tw1\ta\\x20b", f"{first + 1}\tdelete\tw1", f'{first + 2}\tput\tw2\t""',
                 f"{first + 4}\tput\tw3\t\\xff"]
        watched = ["watch", "--prefix", "w", "--from", str(first), "--limit", "4"]
        self.assertEqual(self.ok(*watched).decode().splitlines(), lines)
        self.assertEqual(self.ok(*watched[:-1], "1").decode().splitlines(), lines[:1])
        objects = [json.loads(line) for line in self.ok(*watched, "--json").splitlines()]
        self.assertEqual(objects[0], {"event": "mark", "lsn": first - 1})
        self.assertEqual(objects[1], {"event": "put", "lsn": first, "key": "dzE=", "value": "YSBi"})
        self.assertEqual(objects[2], {"event": "delete", "lsn": first + 1, "key": "dzE="})
        # From now on: it says so with a mark, and then tells what comes.
        with subprocess.Popen([varved.VARVE, *self.target, "watch", "--json", "--hex"], stdout=subprocess.PIPE) as live:
            self.assertEqual(json.loads(live.stdout.readline())["event"], "mark")
            lsn = json.loads(self.ok("put", "live", "1", "--json"))["lsn"]
            self.assertEqual(json.loads(live.stdout.readline()),
                             {"event": "put", "lsn": lsn, "key": "6c697665", "value": "31"})
            live.kill()
        result = self.varve("watch", "--from", "1000000")
        self.assertEqual((result.code, result.out), (3, b""))
        self.assertIn("LSN_IN_FUTURE", result.err)
        self.assertEqual(self.varve("watch", "--timeout", "100ms").code, 3)

    def test_no_server_there(self):
        result = varve("get", "k", "--server", f"unix:{self.work}/none")
        self.assertEqual((result.code, result.out), (3, b""))
        self.assertTrue(result.err.startswith("varve: get: UNAVAILABLE: "), result.err)

    def test_a_server_that_does_not_answer(self):
        import socket
        with socket.create_server(("127.0.0.1", 0)) as silent:
            result = varve("get", "k", "--server", f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "300ms")
        self.assertEqual(result.code, 3)
        self.assertIn("DEADLINE_EXCEEDED", result.err)

    def test_reload(self):
        config = self.work / "varved.conf"
        config.write_text("LOG_LEVEL = warn\n")
        with Varved(self.work / "reloaded", f"--config={config}") as server:
            target = ["--server", server.address]
            self.assertEqual(varve(*target, "reload").out, b"")
            config.write_text("LOG_LEVEL = info\nCACHE_CAPACITY = 1MiB\nMEMTABLE_SIZE = 1MiB\n")
            self.assertEqual(json.loads(varve(*target, "reload", "--json").out),
                             {"changed": ["LOG_LEVEL", "CACHE_CAPACITY"], "restart_needed": ["MEMTABLE_SIZE"]})
            self.assertEqual(varve(*target, "reload").out, b"restart needed MEMTABLE_SIZE\n")
            config.write_text("LOG_LEVEL = loud\n")
            result = varve(*target, "reload")
            self.assertEqual((result.code, result.out), (3, b""))
            self.assertIn("varved.conf:1: LOG_LEVEL = loud: allowed is", result.err)

    def test_administration(self):
        self.ok("put", "k", "1")
        status = json.loads(self.ok("status", "--json"))
        self.assertEqual((status["role"], status["serving"], status["wal_failed"]), ("primary", True, False))
        lines = dict(line.split() for line in self.ok("status").decode().splitlines())
        self.assertEqual(lines.keys(), status.keys())
        self.ok("flush")
        self.assertEqual(json.loads(self.ok("compact", "--json")), {})
        stats = json.loads(self.ok("stats", "--json"))
        self.assertEqual(stats["flushed_lsn"], stats["last_lsn"])
        self.assertEqual(stats["sorted_run_count"], 1)
        self.assertIn("rpc_calls", stats, "the server's own")
        verified = json.loads(self.ok("verify", "--json"))
        self.assertEqual((verified["file_count"], verified["damage_count"]), (2, 0))
        result = self.varve("backup", "monday")
        self.assertEqual(result.code, 3)
        self.assertIn("BACKUP_DIR_NOT_SET", result.err)


class InProcess(Commands, unittest.TestCase):
    def setUp(self):
        self.work = varved.work_dir("cli-data")
        self.data = self.work / "data"
        self.target = ["--data", self.data]
        self.ok("put", "first", "one")

    def test_stats_and_flush(self):
        stats = json.loads(self.ok("stats", "--json"))
        self.assertEqual((stats["last_lsn"], stats["durable_lsn"], stats["sstable_count"]), (1, 1, 0))
        self.assertIn(stats["io_backend"], ("uring", "posix"))
        self.assertEqual(self.ok("flush"), b"")
        lines = dict(line.split() for line in self.ok("stats").decode().splitlines())
        self.assertEqual((lines["flushed_lsn"], lines["sstable_count"]), ("1", "1"))
        self.assertEqual(lines.keys(), stats.keys())
        self.assertEqual(self.ok("get", "first"), b"one")

    def test_backup_and_verify(self):
        self.ok("put", "second", "two")
        done = json.loads(self.ok("backup", self.work / "a", "--json"))
        self.assertEqual((done["lsn"], done["file_count"]), (2, 2))
        self.ok("put", "third", "three")
        again = json.loads(self.ok("backup", self.work / "b", "--incremental", self.work / "a", "--json"))
        self.assertLess(again["copied_bytes"], again["bytes"] - done["copied_bytes"] + 1)
        self.assertIn(b"LSN 3: 3 files", self.ok("backup", self.work / "c", "--link"))
        self.assertEqual(varve("--data", self.work / "a", "get", "second").out, b"two")
        self.assertEqual(varve("--data", self.work / "a", "get", "third").code, 1)
        self.assertEqual(varve("--data", self.work / "b", "get", "third").out, b"three")
        result = self.varve("backup", self.work / "b")
        self.assertEqual(result.code, 3)
        self.assertIn("EXISTS", result.err)

        self.assertIn(b": 0 damaged", varve("verify", self.work / "b").out)
        table = sorted((self.work / "b").glob("*.sst"))[0]
        with table.open("r+b") as file:
            file.seek(100)
            byte = file.read(1)
            file.seek(100)
            file.write(bytes([byte[0] ^ 1]))
        result = varve("verify", self.work / "b")
        self.assertEqual(result.code, 1, "a check that failed")
        first = result.out.decode().splitlines()[0]
        self.assertIn(table.name, first)
        self.assertIn("checksum mismatch; keys that may be lost: first to second", first)
        damage, summary = map(json.loads, varve("verify", self.work / "b", "--json", "--hex").out.splitlines())
        self.assertEqual((damage["offset"], bytes.fromhex(damage["last_key"])), (0, b"second"))
        self.assertEqual(summary["damage_count"], 1)

    def test_repair(self):
        for n in range(200):
            self.ok("put", f"key{n:03}", "v" * 200) if n % 50 == 0 else None
        script = "".join(f"put key{n:03} {'v' * 200}\n" for n in range(200)).encode()
        self.ok("batch", stdin=script)
        self.ok("flush")
        self.ok("backup", self.work / "damaged")
        damaged = self.work / "damaged"
        result = varve("repair", damaged)
        self.assertEqual((result.code, result.out), (0, b"nothing to repair\n"))

        table = sorted(damaged.glob("*.sst"))[-1]
        with table.open("r+b") as file:
            file.seek(4096)
            file.write(bytes(100))
        result = varve("repair", "--dry-run", damaged)
        self.assertEqual(result.code, 1, "damage was found")
        self.assertIn(b"damaged: ", result.out)
        self.assertFalse(list(damaged.glob("repair-*")))
        said = [json.loads(line) for line in varve("repair", damaged, "--json", "--hex").out.splitlines()]
        self.assertEqual([list(line)[0] for line in said], ["damage", "lost", "sound"])
        lost, summary = said[1]["lost"], said[2]
        self.assertEqual((lost["offset"], summary["loss_count"], summary["tables_rewritten"]), (4096, 1, 1))
        self.assertTrue(summary["may_resurrect"])
        self.assertTrue((damaged / summary["originals"] / table.name).exists())
        first, last = bytes.fromhex(lost["first_key"]), bytes.fromhex(lost["last_key"])
        keys = varve("--data", damaged, "scan", "--keys-only").out.split()
        whole = self.ok("scan", "--keys-only").split()
        self.assertEqual([k for k in keys if not first <= k <= last], [k for k in whole if not first <= k <= last])
        self.assertLess(len(keys), len(whole))
        self.assertEqual(varve("verify", damaged).code, 0)

        (damaged / "MANIFEST").unlink()
        result = varve("verify", damaged)
        self.assertEqual(result.code, 1, "what can't be opened is looked through")
        self.assertIn(b"MANIFEST: is missing", result.out)
        result = varve("repair", "--discard-originals", damaged)
        self.assertEqual(result.code, 0, "nothing was lost")
        self.assertIn(b"another id", result.out)
        self.assertEqual(len(list(damaged.glob("repair-*"))), 1, "that of the first repair")
        self.assertEqual(varve("--data", damaged, "scan", "--keys-only").out.split(), keys)
        self.assertEqual(varve("repair", self.work / "none").code, 3)
        self.assertEqual(varve("get", "--dry-run", "k").code, 2)

    def test_inspect(self):
        self.ok("batch", stdin=b"put a 'two words'\ndelete b\n")
        self.ok("flush")
        self.ok("backup", self.work / "looked-at")
        backup = self.work / "looked-at"
        table = sorted(backup.glob("*.sst"))[-1]
        result = varve("inspect", table, "--entries")
        self.assertEqual(result.code, 0)
        lines = result.out.decode().splitlines()
        kinds = [line.split()[0] for line in lines]
        self.assertEqual([kinds[0], kinds[1], kinds[-1]], ["table", "block", "summary"])
        self.assertTrue(any("kind=put key=a value_bytes=9 value=two\\x20words" in line for line in lines), lines)
        self.assertTrue(any(line.endswith("kind=delete key=b") for line in lines), lines)
        self.assertNotIn(b" value=", varve("inspect", table, "--entries", "--keys-only").out)
        items = [json.loads(line) for line in varve("inspect", backup, "--json", "--hex").out.splitlines()]
        self.assertEqual(items[0]["item"], "manifest")
        named = [item for item in items if item["item"] == "table"]
        self.assertEqual(named[-1]["file"], table.name)
        self.assertEqual(bytes.fromhex(named[-1]["first_key"]), b"a")
        with table.open("r+b") as file:
            file.seek(30)
            file.write(b"\xff\xff")
        result = varve("inspect", table, "--json")
        self.assertEqual(result.code, 1, "a check that failed")
        damage = [json.loads(line)["damage"] for line in result.out.splitlines() if b'"damage"' in line]
        self.assertEqual([d["offset"] for d in damage], [0])
        self.assertEqual(varve("inspect", __file__).code, 3)
        self.assertEqual(varve("inspect").code, 2)
        self.assertEqual(varve("get", "--entries", "k").code, 2)
        self.assertEqual(varve("inspect", "--keys-only", table).code, 2)

    def test_reading_makes_no_database(self):
        for words in (["get", "k"], ["delete", "k"], ["flush"], ["stats"], ["scan"], ["compact"]):
            result = varve("--data", self.work / "none", *words)
            self.assertEqual(result.code, 3)
            self.assertIn("no such database", result.err)
            self.assertFalse((self.work / "none").exists())

    def test_a_usage_error_makes_no_database(self):
        for words, stdin in ((["put", "--hex", "x", "00"], b""), (["batch"], b"put b\n")):
            self.assertEqual(varve("--data", self.work / "none", *words, stdin=stdin).code, 2)
            self.assertFalse((self.work / "none").exists())

    def test_a_directory_that_is_in_use(self):
        with Varved(self.data) as server:
            result = self.varve("get", "first")
            self.assertEqual(result.code, 3)
            self.assertIn("LOCKED", result.err)
            self.assertEqual(varve("--server", server.address, "get", "first").out, b"one")
            self.assertEqual(server.stop(), 0)
        self.assertEqual(self.ok("get", "first"), b"one")


if __name__ == "__main__":
    unittest.main(verbosity=2)
