"""
A small file system of the test's own, which can be filled, can fail, and can lose what was not synced:

  ext4    on a loop device, where this process may mount it: all of that
  tmpfs   where a user namespace is all there is: it can be filled
  none    where not even that: the caller says so, and does without

enter() comes first in a program: it begins anew in a mount namespace of its own, so that whatever becomes of it no mount
stays behind.
"""

import ctypes
import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

INSIDE = "E2E_MOUNT_NAMESPACE"
IMAGE_BYTES = 96 << 20
EXT4_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN: nothing reaches the device from now on
NO_LOG_FLUSH = 2  # not even the journal that it holds in memory
MNT_DETACH = 2
UNMOUNT_S = 30


def run(*command):
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise OSError(f"{' '.join(map(str, command))} ended with {result.returncode}: {result.stdout.strip()}")


def enter():
    if INSIDE in os.environ:
        return
    for kind in ([], ["--user", "--map-root-user"]):
        unshare = ["unshare", *kind, "--mount", "--propagation", "private"]
        try:
            run(*unshare, "true")
        except OSError:
            continue
        os.environ[INSIDE] = "user" if kind else "root"
        os.execvp("unshare", [*unshare, sys.executable, *sys.argv])


class SmallDisk:
    """At `path`. Use as a context manager. kind: "ext4", "tmpfs", or None, when `path` is a plain directory."""

    def __init__(self, work):
        self.image, self.path = work / "disk.img", work / "disk"
        self.path.mkdir()
        self.kind, self.why = None, "no mount namespace can be had"
        if INSIDE not in os.environ:
            return
        for kind, make in (("ext4", self._make_ext4), ("tmpfs", self._make_tmpfs)):
            try:
                make()
                self.kind = kind
                return
            except OSError as e:
                self.why = str(e)

    def _make_ext4(self):
        with open(self.image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        run("mkfs.ext4", "-q", "-F", "-m", "0", self.image)
        self._mount()
        if not self._error_switch().exists():
            self._unmount()
            raise OSError(f"there is no {self._error_switch()}")

    def _make_tmpfs(self):
        run("mount", "-t", "tmpfs", "-o", f"size={IMAGE_BYTES}", "varve-test", self.path)

    def _mount(self):
        # Without discard and lazy initialisation nothing else writes to it.
        run("mount", "-o", "loop,errors=remount-ro,init_itable=0", self.image, self.path)

    def _unmount(self):
        """The kernel ends the rings of a process that was killed in its own time: until then it is busy."""
        end = time.monotonic() + UNMOUNT_S
        while True:
            try:
                return run("umount", self.path)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def _error_switch(self):
        device = os.stat(self.path).st_dev
        name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
        return Path("/sys/fs/ext4") / name / "trigger_fs_error"

    # ---- what can happen to a disk ----

    def fill(self, left_bytes):
        """Somebody else takes all but so much."""
        free = os.statvfs(self.path)
        size = max(4096, free.f_bavail * free.f_frsize - left_bytes)
        with open(self.path / "ballast", "wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as e:  # what there was when it asked was less than it had seen: it has that now
                if e.errno != errno.ENOSPC:
                    raise

    def free(self):
        (self.path / "ballast").unlink(missing_ok=True)

    def make_read_only(self):
        """As ext4 does by itself after an error. (A plain remount is refused while a file is open for writing.)"""
        self._error_switch().write_text("read-only, please")

    def lose_power(self):
        """Nothing that is not on the device yet gets there. Whoever has files there gets EIO from now on."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_SHUTDOWN, NO_LOG_FLUSH.to_bytes(4, sys.byteorder))
        finally:
            os.close(fd)

    def repair(self):
        """After either of them, and the end of the server: back as an operator would bring it."""
        self._unmount()
        result = subprocess.run(["e2fsck", "-p", self.image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode not in (0, 1):  # 1: errors were corrected
            raise AssertionError(f"e2fsck -p ended with {result.returncode}: {result.stdout}")
        self._mount()
        self.free()  # that it was removed may be lost as well

    def __enter__(self):
        return self

    def __exit__(self, *rest):
        if self.kind:
            ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(self.path), MNT_DETACH)
