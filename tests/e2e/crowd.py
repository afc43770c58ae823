"""
The crowd of test_abuse.py: in each kind of clients there are those that do harm, and their twins, who do the same
number of things at the same pace and mean well.

Each kind is a process that hears on a pipe which of the two it is to be and for how long, and answers with the number
of things that it has done. It is an error if the server answers what is bad, or refuses what is good.
"""

import os
import random
import signal
import socket
import time
from multiprocessing import Pipe, Process

import h2
import varved  # noqa: F401 - puts the generated stubs on the path
from h2 import Closed, Connection, connect, frame, header_block, headers, message
from varve.v1 import kv_pb2

GET, SCAN, PIPELINE, PUT = (f"/varve.v1.KV/{name}" for name in ("Get", "Scan", "Pipeline", "Put"))
# The hundredth part of these under a sanitizer would find no less, but they are the numbers that are promised.
SLOW_CONNECTIONS = 2000
STREAMS = 10000
STREAMS_PER_CONNECTION = 1000


class Kind:
    """One kind of clients. `rate` is how many things a second are done."""

    rate = 50

    def __init__(self, address, token, seed):
        self.address = address
        self.auth = (b"authorization", b"Bearer " + token)
        self.random = random.Random(f"{type(self).__name__} {seed}")
        self.connection = None

    def get(self):
        return kv_pb2.GetRequest(key=b"good").SerializeToString()

    def kept(self):
        """A connection that lasts, made anew when it is gone."""
        if self.connection is None:
            self.connection = Connection(self.address)
        return self.connection

    def call(self, path, body, *more, good):
        try:
            answered = self.kept().answers([self.kept().call(path, body, more)])
        except Closed:
            self.connection, answered = None, 0
        if answered != good:
            raise AssertionError(f"{type(self).__name__}: {path} was {'answered' if answered else 'refused'}")

    def begin(self, good):
        """What the phase begins with."""

    def act(self, good):
        """What is then done at the kind's rate."""

    def end(self, good):
        if self.connection:
            self.connection.close()
            self.connection = None

    def phase(self, good, seconds):
        start, count = time.monotonic(), 0
        self.begin(good)
        while not count or time.monotonic() < start + seconds:
            now = time.monotonic()
            self.act(good)
            count += 1
            time.sleep(max(0, now + 1 / self.rate - time.monotonic()))
        self.end(good)
        return count


class Garbage(Kind):
    """Bytes that are no HTTP/2, and HTTP/1.1. The twin calls once."""

    def act(self, good):
        if good:
            connection = Connection(self.address)
            if connection.answers([connection.call(GET, self.get(), [self.auth])]) != 1:
                raise AssertionError("a call was refused")
            connection.close()
            return
        sock = connect(self.address)
        try:
            sock.sendall(self.random.choice((
                self.random.randbytes(self.random.randrange(1, 20000)) + b"\n" * 24,
                b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
                h2.PREFACE + self.random.randbytes(5000), h2.PREFACE + frame(99, 255, 7, bytes(100)) * 50 +
                frame(h2.SETTINGS, 0, 0, b"odd"), b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200))))
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed already
        h2.until_closed(sock)


class Slow(Kind):
    """
    2,000 connections that say nothing, or half of something, or the rest of it a byte at a time. The twins are as
    many idle ones, with a frame that means nothing at the same pace; one in a hundred has made a call.
    """

    rate = 200

    def begin(self, good):
        opening = Connection.opening()
        call = opening + headers(1, header_block(GET, [self.auth]))
        body = frame(h2.DATA, h2.END_STREAM, 1, message(self.get()))
        self.socks = []
        for number in range(SLOW_CONNECTIONS):
            sock = connect(self.address)
            self.socks.append(sock)
            if good:
                sock.sendall(opening if number % 100 else call + body)
            else:
                sock.sendall((b"", h2.PREFACE[:number % 24], call[:60 + number % 50], call)[number % 4])

    def act(self, good):
        at = self.random.randrange(SLOW_CONNECTIONS // 4) * 4
        try:
            if good:
                self.socks[at].sendall(frame(h2.WINDOW_UPDATE, 0, 0, b"\0\0\0\1"))
            else:
                self.socks[at + 2].sendall(b"\0")
                self.socks[at + 3].sendall(b"\0")
        except ConnectionError:
            pass  # what has come of it so far was not to the server's liking

    def end(self, good):
        for number, sock in enumerate(self.socks):
            if good or number % 2:
                sock.close()
            else:
                h2.reset(sock)
        self.socks = []


class Oversized(Kind):
    """
    Messages and metadata that are larger than the server takes, and a message that is said to be so and never comes.
    The twin's are just below.
    """

    rate = 5

    def act(self, good):
        # Field 15 is none of the message's, and left alone.
        size = (3 << 19) if good else (5 << 19)
        body = self.get() + b"\x7a" + varint(size) + bytes(size)
        if self.kept().upload(GET, body, [self.auth]) != good:
            raise AssertionError(f"{size} bytes were {'refused' if good else 'taken'}")
        connection = self.kept()
        if good:
            self.call(GET, self.get(), self.auth, good=True)
        else:
            stream = connection.take_stream()
            connection.sock.sendall(headers(stream, header_block(PUT, [self.auth])) +
                                    frame(h2.DATA, 0, stream, message(bytes(16000), declared=300 << 20)) +
                                    frame(h2.RST_STREAM, 0, stream, b"\0\0\0\x08"))
        self.call(GET, self.get(), self.auth, (b"padding", b"x" * (4000 if good else 65536)), good=good)
        self.end(good)  # after too much metadata the server closes the connection


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Streams(Kind):
    """
    10,000 streams open at once, over ten connections as many as each may have, each used once, half of them
    cancelled in the end and half lost with their connection; beside them clients that open more than a connection
    may have. The twins open as many at the same pace, and close each when it has its answer.
    """

    rate = 2
    chunk, pace_s = 100, 0.01

    def begin(self, good):
        self.connections = [Connection(self.address) for _ in range(STREAMS // STREAMS_PER_CONNECTION)]
        block = header_block(PIPELINE, [self.auth])
        data = message(kv_pb2.PipelineRequest(id=1, op=kv_pb2.Op(get=kv_pb2.GetOp(key=b"good"))).SerializeToString())
        for at in range(0, STREAMS, self.chunk):
            connection = self.connections[at // self.chunk % len(self.connections)]
            streams = [connection.take_stream() for _ in range(self.chunk)]
            connection.sock.sendall(b"".join(headers(stream, block) + frame(h2.DATA, good, stream, data)
                                             for stream in streams))
            if good:
                answered = connection.answers(streams)
            else:
                answered = connection.first_answers(streams)
            if answered != self.chunk:
                raise AssertionError(f"{self.chunk - answered} streams were refused, {at} are open")
            time.sleep(self.pace_s)

    def act(self, good):
        connection = Connection(self.address)
        if good:
            connection.answers([connection.call(GET, self.get(), [self.auth])])
        else:
            block = header_block(PIPELINE, [self.auth])
            try:
                connection.sock.sendall(b"".join(headers(connection.take_stream(), block)
                                                 for _ in range(STREAMS_PER_CONNECTION + 10)))
                connection.answers([connection.call(GET, self.get(), [self.auth])])
            except (Closed, ConnectionError):
                pass
        connection.close()

    def end(self, good):
        for number, connection in enumerate(self.connections):
            if good or number % 2:
                connection.close()
            else:
                connection.sock.sendall(b"".join(frame(h2.RST_STREAM, 0, stream, b"\0\0\0\x08")
                                                 for stream in range(1, connection.next_stream, 2)))
                h2.reset(connection.sock)


class Killed(Kind):
    """Processes that are killed in the middle of a scan that they had stopped to read. The twin reads it all."""

    rate = 5

    def act(self, good):
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                connection = Connection(self.address, window=1 << 30 if good else 20000)
                stream = connection.call(SCAN, kv_pb2.ScanRequest(prefix=b"data").SerializeToString(), [self.auth])
                if good:
                    os._exit(connection.answers([stream]) != 1)
                while connection.read()[0] != h2.DATA:
                    pass
                os.write(told, b"x")
                time.sleep(h2.CALL_S)
            finally:
                os._exit(1)
        os.close(told)
        if not good:
            os.read(ready, 1)
            os.kill(child, signal.SIGKILL)
        os.close(ready)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != (0 if good else -signal.SIGKILL):
            raise AssertionError(f"a scan ended with {code}")


class Forged(Kind):
    """Bearer tokens and page tokens that nobody gave out, at random or almost right."""

    rate = 100

    def act(self, good):
        scan = kv_pb2.ScanRequest(prefix=b"data", limit=1)
        if good:
            self.call(GET, self.get(), self.auth, good=True)
            self.call(SCAN, scan.SerializeToString(), self.auth, good=True)
            return
        token = bytearray(self.auth[1])
        token[self.random.randrange(7, len(token))] ^= 1
        self.call(GET, self.get(), (self.auth[0], bytes(token)), good=False)
        scan.page_token = self.random.randbytes(self.random.randrange(1, 200))
        self.call(SCAN, scan.SerializeToString(), self.auth, good=False)


class Nonsense(Kind):
    """Calls of what there is not, messages that are none, and calls that are cancelled as soon as they are made."""

    rate = 100

    def act(self, good):
        if good:
            for _ in range(3):
                self.call(GET, self.get(), self.auth, good=True)
            return
        self.call("/varve.v1.KV/" + "x" * self.random.randrange(300), b"", self.auth, good=False)
        self.call(GET, b"\x0a\xff\xff\xff\xff\x0f" + self.random.randbytes(20), self.auth, good=False)
        connection = self.kept()
        stream = connection.take_stream()
        connection.sock.sendall(headers(stream, header_block(SCAN, [self.auth]), h2.END_STREAM) +
                                frame(h2.RST_STREAM, 0, stream, b"\0\0\0\x08"))


KINDS = (Garbage, Slow, Oversized, Streams, Killed, Forged, Nonsense)


class Crowd:
    """All kinds or some, each in a process of its own."""

    def __init__(self, address, token, seed, kinds=KINDS):
        self.members = []
        for kind in kinds:
            ours, theirs = Pipe()
            process = Process(target=self._live, args=(kind(address, token, seed), theirs), daemon=True)
            process.start()
            theirs.close()
            self.members.append((kind, process, ours))

    @staticmethod
    def _live(kind, pipe):
        while True:
            try:
                good, seconds = pipe.recv()
            except EOFError:
                return
            pipe.send(kind.phase(good, seconds))

    def go(self, good, seconds):
        for _, _, pipe in self.members:
            pipe.send((good, seconds))

    def busy(self):
        """Whether some have not come to the end of their phase."""
        return not all(pipe.poll() or not process.is_alive() for _, process, pipe in self.members)

    def done(self):
        """Await the end of the phase; how much each has done."""
        counts = {}
        for kind, process, pipe in self.members:
            try:
                counts[kind.__name__] = pipe.recv()
            except EOFError:
                raise AssertionError(f"{kind.__name__} has ended; see above") from None
        return counts

    def close(self):
        for _, process, pipe in self.members:
            process.kill()
            process.join()
            pipe.close()
