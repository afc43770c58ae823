"""What varved must not start on, and that it says why and leaves everything as it was."""

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import grpc
import xxhash

import varved
from varved import VARVED, Varved, refused
from varve.v1 import kv_pb2, kv_pb2_grpc

CALL_S = 20
NOBODY = 65534
SEED = varved.seed()


def state(folder):
    """Of every file: name, size and content. The lock file's content (who had it) is not data."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "LOCK"}


class StartRefused(unittest.TestCase):
    def setUp(self):
        self.work = varved.work_dir("start-refused")
        self.data = self.work / "data"

    def filled(self):
        """A stopped database with data in the log and in SSTables."""
        with Varved(self.data, "--MEMTABLE_SIZE=256KiB", "--WAL_SEGMENT_SIZE=256KiB") as server:
            with grpc.insecure_channel(server.address) as channel:
                kv = kv_pb2_grpc.KVStub(channel)
                for number in range(300):
                    kv.Put(kv_pb2.PutRequest(key=b"%04d" % number, value=bytes(1000)), timeout=CALL_S)
            self.assertEqual(server.stop(), 0, server.stderr())
        return self.data

    def intact(self):
        """The database opens and has what it had."""
        with Varved(self.data) as server, grpc.insecure_channel(server.address) as channel:
            kv = kv_pb2_grpc.KVStub(channel)
            for number in range(300):
                got = kv.Get(kv_pb2.GetRequest(key=b"%04d" % number), timeout=CALL_S)
                self.assertEqual((got.found, got.value), (True, bytes(1000)))
            self.assertEqual(server.stop(), 0)

    def refused_unchanged(self, words, *flags, code=1, **kwargs):
        before = state(self.data) if self.data.is_dir() else None
        got, stderr = refused(self.data, *flags, **kwargs)
        self.assertEqual(got, code, stderr)
        for word in words:
            self.assertIn(word.lower(), stderr.lower())
        if before is not None:
            self.assertEqual(state(self.data), before, "the refused start changed files")
        return stderr

    # ---- the directory ----

    def test_a_file_where_the_directory_should_be(self):
        self.data.write_text("precious")
        code, stderr = refused(self.data)
        self.assertEqual(code, 1)
        self.assertIn("not a directory", stderr.lower())
        self.assertIn(str(self.data), stderr)
        self.assertEqual(self.data.read_text(), "precious")

    def test_a_path_below_a_file(self):
        self.data.write_text("precious")
        code, stderr = refused(self.data / "below")
        self.assertEqual(code, 1)
        self.assertIn(str(self.data / "below"), stderr)
        self.assertEqual(self.data.read_text(), "precious")

    def test_a_parent_that_is_not_there(self):
        code, stderr = refused(self.work / "no/such/data")
        self.assertEqual(code, 1)
        self.assertIn("no/such/data", stderr)
        self.assertFalse((self.work / "no").exists())

    def without_writing(self, binary, place):
        """
        Words before a command that make a folder one that it cannot write, and what is to be said then. Root
        writes everywhere: then the command is run as nobody, or where nobody cannot come, with the folder mounted
        read-only in a namespace of its own.
        """
        if os.geteuid() != 0:
            return [], "permission denied"
        for prefix, words in (
            (["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"], "permission denied"),
            (["unshare", "--mount", "sh", "-ec", 'mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"; exec "$@"', place],
             "read-only"),
        ):
            if shutil.which(prefix[0]) and \
                    subprocess.run([*prefix, "test", "-x", binary], capture_output=True).returncode == 0:
                return prefix, words
        self.skipTest("NOT TESTED: this is root, who writes everywhere, and neither setpriv nor unshare works here")

    def test_a_directory_that_is_not_writable(self):
        public = Path(tempfile.mkdtemp(prefix="varve-e2e-"))
        self.addCleanup(shutil.rmtree, public)
        public.chmod(0o755)
        binary = public / "varved"
        shutil.copy(VARVED, binary)
        for folder in (public / "data", public / "data-of-others" / "new"):
            place = folder if folder.name == "data" else folder.parent
            place.mkdir()
            place.chmod(0o555)
            prefix, words = self.without_writing(binary, place)
            result = subprocess.run([*prefix, binary, "--data", folder, "--listen", "127.0.0.1:0"],
                                    capture_output=True, text=True, timeout=varved.READY_S)
            self.assertEqual(result.returncode, 1, result.stderr)
            self.assertIn(words, result.stderr.lower())
            self.assertIn(str(folder), result.stderr)
            self.assertEqual(list(place.iterdir()), [])
            place.chmod(0o755)

    def test_a_second_process_on_the_same_directory(self):
        with Varved(self.data) as first:
            code, stderr = refused(self.data)
            self.assertEqual(code, 1)
            self.assertIn("another process", stderr.lower())
            self.assertIn(str(self.data), stderr)
            command = subprocess.run([varved.VARVE, "--data", self.data, "get", "k"], capture_output=True, text=True,
                                     timeout=60)
            self.assertEqual(command.returncode, 3)
            self.assertIn("LOCKED", command.stderr)
            # The first one is none the worse.
            with grpc.insecure_channel(first.address) as channel:
                kv_pb2_grpc.KVStub(channel).Put(kv_pb2.PutRequest(key=b"k", value=b"v"), timeout=CALL_S)
            self.assertEqual(first.stop(), 0)

    # ---- the command line ----

    def test_a_configuration_that_is_not_allowed(self):
        for flags, words in [
            (["--BLOCK_SIZE=5000"], ["BLOCK_SIZE", "5000", "power of two"]),
            (["--MEMTABLE_SIZE=lots"], ["MEMTABLE_SIZE", "lots"]),
            (["--IO_BACKEND=tape"], ["IO_BACKEND", "tape", "uring", "posix", "auto"]),
            (["--NO_SUCH_KEY=1"], ["NO_SUCH_KEY"]),
            (["--no-such-flag"], ["no-such-flag"]),
            (["--listen", "nonsense"], ["nonsense"]),
            (["operand"], ["operand"]),
        ]:
            with self.subTest(flags=flags):
                self.refused_unchanged(words, *flags, code=2)
                self.assertFalse(self.data.exists(), "a directory was made before the configuration was read")

    # ---- the files ----

    def files(self, pattern):
        found = sorted(self.filled().glob(pattern))
        self.assertTrue(found, f"no {pattern} in {list(self.data.iterdir())}")
        return found

    def test_a_newer_format_of_the_manifest(self):
        [manifest] = self.files("MANIFEST")
        content = bytearray(manifest.read_bytes())
        self.assertEqual(content[:8], b"VARVMAN\x04")
        content[7] = 5
        content[-8:] = xxhash.xxh3_64_digest(bytes(content[:-8]))
        manifest.write_bytes(content)
        self.refused_unchanged([str(manifest), "newer"])
        content[7] = 4
        content[-8:] = xxhash.xxh3_64_digest(bytes(content[:-8]))
        manifest.write_bytes(content)
        self.intact()

    def test_a_newer_format_of_the_log(self):
        segment = self.files("wal-*.log")[-1]
        content = segment.read_bytes()
        self.assertEqual(content[:12], b"VARVWAL\0\0\0\0\x01")
        newer = content[:8] + b"\0\0\0\x02" + content[12:56]
        segment.write_bytes(newer + xxhash.xxh3_64_digest(newer) + content[64:])
        self.refused_unchanged([segment.name, "newer"])
        segment.write_bytes(content)
        self.intact()

    def test_a_manifest_with_any_byte_changed(self):
        [manifest] = self.files("MANIFEST")
        content = manifest.read_bytes()
        rng = random.Random(SEED)
        places = {0, 7, 8, 15, 16, 48, 80, 83, 84, len(content) - 8, len(content) - 1}
        for place in sorted(places | {rng.randrange(len(content)) for _ in range(8)}):
            with self.subTest(place=place):
                broken = bytearray(content)
                broken[place] ^= 1 << rng.randrange(8)
                manifest.write_bytes(broken)
                self.refused_unchanged([str(manifest)])
        for kept in (0, 7, 40, len(content) - 1):
            with self.subTest(kept=kept):
                manifest.write_bytes(content[:kept])
                self.refused_unchanged([str(manifest)])
        manifest.write_bytes(content)
        self.intact()

    def test_a_manifest_that_is_gone_while_the_rest_is_there(self):
        [manifest] = self.files("MANIFEST")
        content = manifest.read_bytes()
        manifest.unlink()
        self.refused_unchanged(["manifest"])
        manifest.write_bytes(content)
        self.intact()

    def test_a_log_whose_acknowledged_records_are_damaged(self):
        segments = self.files("wal-*.log")
        rng = random.Random(SEED)
        damaged = 0
        for segment in segments:
            content = segment.read_bytes()
            frames = [place for place in range(512, len(content), 512) if content[place:place + 4] == b"VWFM"]
            for place in [20, *(frame + rng.randrange(64, 300) for frame in frames[:-1][-2:])]:
                broken = bytearray(content)
                broken[place] ^= 1 << rng.randrange(8)
                segment.write_bytes(broken)
                with self.subTest(segment=segment.name, place=place):
                    self.damaged_log_loses_nothing(segment)
                    damaged += 1
                segment.write_bytes(content)
        self.assertGreater(damaged, len(segments) - 1)
        self.intact()

    def damaged_log_loses_nothing(self, segment):
        """Refused, or, where all that the damage can touch is in SSTables, everything is still there."""
        kept = state(self.data)
        try:
            with Varved(self.data) as server, grpc.insecure_channel(server.address) as channel:
                kv = kv_pb2_grpc.KVStub(channel)
                for number in range(300):
                    got = kv.Get(kv_pb2.GetRequest(key=b"%04d" % number), timeout=CALL_S)
                    self.assertTrue(got.found, f"{number} is lost, and the start went well")
        except varved.StartRefused as e:
            self.assertEqual(e.code, 1, e.stderr)
            self.assertIn(segment.name, e.stderr)
            self.assertEqual(state(self.data), kept, "the refused start changed files")

    def test_a_log_with_a_segment_missing(self):
        segments = self.files("wal-*.log")
        self.assertGreater(len(segments), 2)
        segments[1].rename(self.work / "aside")
        self.refused_unchanged(["wal-"])
        (self.work / "aside").rename(segments[1])
        self.intact()

    def test_an_sstable_that_is_damaged_gives_no_wrong_answer(self):
        tables = self.files("*.sst")
        table = tables[0]
        content = table.read_bytes()
        rng = random.Random(SEED)
        for place in [0, 30, len(content) // 2, len(content) - 57, len(content) - 30, len(content) - 1,
                      *(rng.randrange(len(content)) for _ in range(6))]:
            broken = bytearray(content)
            broken[place] ^= 1 << rng.randrange(8)
            table.write_bytes(broken)
            with self.subTest(place=place):
                self.damaged_table_is_noticed(table)
        table.unlink()
        self.damaged_table_is_noticed(table)
        table.write_bytes(content)
        self.intact()

    def damaged_table_is_noticed(self, table):
        """Refused at the start, or DATA_LOSS for what is lost, and every other key as it was."""
        try:
            with Varved(self.data) as server, grpc.insecure_channel(server.address) as channel:
                kv = kv_pb2_grpc.KVStub(channel)
                for number in range(300):
                    try:
                        got = kv.Get(kv_pb2.GetRequest(key=b"%04d" % number), timeout=CALL_S)
                        self.assertEqual((got.found, got.value), (True, bytes(1000)), number)
                    except grpc.RpcError as e:
                        # A version byte that was changed may say "newer" before anything says "damaged".
                        self.assertIn(e.code(), (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNIMPLEMENTED),
                                      e.details())
        except varved.StartRefused as e:
            self.assertEqual(e.code, 1)
            self.assertIn(table.name if table.exists() else "table", e.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
