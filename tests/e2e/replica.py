"""
Several servers as one group, each reaching each of the others over a link of its own that can be cut, slowed or
silenced.

    group = Group(work, ["a", "b", "c"], quorum=1)
    group.start("a"); group.start("b", follow="a"); ...
    group.link("b", "a").cut()

A link is a TCP proxy in this process. Nodes know each other by the links' addresses alone, which stay while nodes are
started again on other ports. Clients of the test go to the nodes directly.
"""

import contextlib
import os
import signal
import socket
import struct
import threading
import time

import varved
from varved import Varved

CHUNK = 1 << 16


class Link:
    """Forwards connections to wherever `target()` says at that moment ("HOST:PORT"; None: nobody is there)."""

    def __init__(self, target):
        self._target = target
        self._lock = threading.Condition()
        self._open = set()
        self._up = True
        self._silent = False
        self._delay_s = 0.0
        self._cut_after = None  # bytes
        self.bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    # ---- what can happen to a network ----

    def cut(self):
        """Nothing connects, and what is connected is reset."""
        with self._lock:
            self._up = False
            self._close_all()

    def silence(self):
        """Nothing passes any more, and nobody is told."""
        with self._lock:
            self._silent = True

    def delay(self, seconds):
        """Each piece of bytes takes so long, one way."""
        with self._lock:
            self._delay_s = seconds

    def cut_after(self, count):
        """The connections are reset once so many more bytes have passed, in the middle of whatever that is."""
        with self._lock:
            self._cut_after = count

    def heal(self):
        with self._lock:
            if self._silent:  # what was swallowed is gone: so are the connections
                self._close_all()
            self._up, self._silent, self._delay_s, self._cut_after = True, False, 0.0, None
            self._lock.notify_all()

    def close(self):
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    # ---- forwarding ----

    def _close_all(self):
        for end in self._open:
            with contextlib.suppress(OSError):
                # A reset, not an orderly end.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()
        self._lock.notify_all()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near):
        target = self._target()
        try:
            if not self._up or not target:
                raise OSError("down")
            host, _, port = target.rpartition(":")
            far = socket.create_connection((host, int(port)), timeout=5)
            far.settimeout(None)
        except OSError:
            near.close()
            return
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            if not self._up:
                near.close(), far.close()
                return
            self._open |= {near, far}
        back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
        back.start()
        self._pump(near, far)
        back.join()
        near.close(), far.close()

    def _admit(self, data):
        """What of it may pass, and whether the connection is over then."""
        with self._lock:
            if self._silent:
                while self._silent and self._up:
                    self._lock.wait()
                return b"", True
            if not self._up:
                return b"", True
            over = self._cut_after is not None and self._cut_after <= len(data)
            if self._cut_after is not None:
                data = data[:self._cut_after]
                self._cut_after = None if over else self._cut_after - len(data)
            self.bytes += len(data)
            return data, over

    def _pump(self, source, sink):
        try:
            while True:
                data = source.recv(CHUNK)
                if not data:
                    break
                if self._delay_s:
                    time.sleep(self._delay_s)  # a slow network, not a wait for anything
                passed, over = self._admit(data)
                sink.sendall(passed)
                if over:
                    with self._lock:
                        self._close_all()
                    break
        except OSError:
            pass
        with self._lock:
            self._open -= {source, sink}
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Node:
    """One server's place: its directory, its flags, and the process that runs there, if any."""

    def __init__(self, group, name):
        self.group, self.name = group, name
        self.data = group.work / name
        self.server = None
        self.stopped = False
        self.flags = []

    @property
    def address(self):
        return self.server.address if self.server and self.server.addresses else None

    def start(self, *flags, wait=True):
        peers = ",".join(self.group.link(self.name, other).address for other in self.group.nodes if other != self.name)
        if flags:
            self.flags = list(flags)
        self.server = Varved(self.data, f"--NODE_NAME={self.name}", f"--PEERS={peers}", *self.group.flags, *self.flags,
                             wait=wait)
        self.stopped = False
        return self

    def kill(self):
        if self.server:
            self.server.kill()
            self.server = None

    def stop(self):
        code = self.server.stop()
        self.server = None
        return code

    def pause(self):
        os.kill(self.server.process.pid, signal.SIGSTOP)
        self.stopped = True

    def resume(self):
        if self.server and self.stopped:
            os.kill(self.server.process.pid, signal.SIGCONT)
        self.stopped = False

    @property
    def runs(self):
        return self.server is not None and not self.stopped


class Group:
    """Use as a context manager: whatever still runs at its end is killed."""

    def __init__(self, work, names, *flags):
        self.work, self.flags = work, list(flags)
        self.nodes = {name: Node(self, name) for name in names}
        self.links = {(a, b): Link(lambda b=b: self.nodes[b].address) for a in names for b in names if a != b}

    def __getitem__(self, name):
        return self.nodes[name]

    def link(self, source, target):
        """That over which `source` calls `target`."""
        return self.links[source, target]

    def heal(self):
        for link in self.links.values():
            link.heal()

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        for node in self.nodes.values():
            node.resume()
            if node.server:
                node.server.__exit__(kind, *rest)
        for link in self.links.values():
            link.close()
