"""HTTP/2 by hand, as much as a test needs that must do what no library lets it do."""

import os
import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ACK = END_STREAM = 1
END_HEADERS = 4
FRAME_BYTES_MAX = 16384
CALL_S = 240 if os.environ.get("E2E_SANITIZE") else 60


class Closed(Exception):
    """The peer has closed the connection."""


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value):
    """A string of HPACK, without Huffman's code."""
    length, out = len(value), bytearray()
    if length < 127:
        out.append(length)
    else:
        out.append(127)
        length -= 127
        while length > 127:
            out.append(length & 127 | 128)
            length >>= 7
        out.append(length)
    return bytes(out) + value


def header_block(path, more=()):
    """The headers of a gRPC call, all of them literal and never indexed."""
    pairs = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"localhost"),
             (b"te", b"trailers"), (b"content-type", b"application/grpc"), *more]
    return b"".join(b"\x10" + text(name) + text(value) for name, value in pairs)


def headers(stream, block, flags=0):
    """The frames of a header block of any size."""
    parts = [block[at:at + FRAME_BYTES_MAX] for at in range(0, len(block), FRAME_BYTES_MAX)]
    out = [frame(HEADERS, flags | (END_HEADERS if len(parts) == 1 else 0), stream, parts[0])]
    for number, part in enumerate(parts[1:], 2):
        out.append(frame(CONTINUATION, END_HEADERS if number == len(parts) else 0, stream, part))
    return b"".join(out)


def message(body, declared=None):
    """A gRPC message; `declared` is a length that it lies about."""
    return b"\0" + struct.pack(">I", len(body) if declared is None else declared) + body


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=CALL_S)


def reset(sock):
    """Close a connection as one whose process was killed: with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def until_closed(sock):
    """Read and throw away until the peer has closed."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass
    sock.close()


class Connection:
    """A client's side of one connection; blocking."""

    def __init__(self, address, window=1 << 30):
        self.sock = connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.next_stream = 1
        self.windows = {0: 65535}  # what the peer takes, by stream
        self.initial_window = 65535
        self.sock.sendall(self.opening(window))

    @staticmethod
    def opening(window=1 << 30):
        return (PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window)) +
                frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30)))

    def take_stream(self):
        self.next_stream += 2
        return self.next_stream - 2

    def call(self, path, body, more=(), end=True):
        """Send a call with one message; its stream."""
        stream = self.take_stream()
        self.sock.sendall(headers(stream, header_block(path, more)) +
                          frame(DATA, END_STREAM if end else 0, stream, message(body)))
        return stream

    def fill(self, count):
        while len(self.buffer) < count:
            try:
                more = self.sock.recv(65536)
            except ConnectionError:
                more = b""
            if not more:
                raise Closed
            self.buffer += more

    def read(self):
        """The next frame: kind, flags, stream, payload."""
        self.fill(9)
        length = int.from_bytes(self.buffer[:3], "big")
        self.fill(9 + length)
        kind, flags, stream = struct.unpack(">BBI", self.buffer[3:9])
        payload = bytes(self.buffer[9:9 + length])
        del self.buffer[:9 + length]
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, length, 6):
                name, value = struct.unpack(">HI", payload[at:at + 6])
                if name == 4:
                    self.initial_window = value
            self.sock.sendall(frame(SETTINGS, ACK, 0))
        elif kind == WINDOW_UPDATE:
            self.windows[stream] = self.windows.get(stream, 0) + int.from_bytes(payload, "big")
        return kind, flags, stream, payload

    def upload(self, path, body, more=()):
        """Send a call with one message of any size as fast as the peer takes it; whether it had an answer."""
        stream = self.take_stream()
        self.sock.sendall(headers(stream, header_block(path, more)))
        rest, answered = memoryview(message(body)), False
        while True:
            room = min(self.windows[0], self.initial_window + self.windows.get(stream, 0), FRAME_BYTES_MAX, len(rest))
            if room:
                self.sock.sendall(frame(DATA, END_STREAM if room == len(rest) else 0, stream, bytes(rest[:room])))
                rest = rest[room:]
                self.windows[0] -= room
                self.windows[stream] = self.windows.get(stream, 0) - room
                continue
            kind, flags, at, payload = self.read()
            if at == stream and kind == DATA and payload:
                answered = True
            if at == stream and (kind == RST_STREAM or kind == HEADERS and flags & END_STREAM):
                return answered

    def answers(self, streams):
        """Read until all of these have ended; how many of them have had a message."""
        left, answered = set(streams), set()
        while left:
            kind, flags, stream, payload = self.read()
            if stream in left and kind == DATA and payload:
                answered.add(stream)
            if kind == RST_STREAM or kind in (DATA, HEADERS) and flags & END_STREAM:
                left.discard(stream)
        return len(answered)

    def first_answers(self, streams):
        """Read until each of these has had a message or has ended; how many have had one."""
        left, answered = set(streams), 0
        while left:
            kind, flags, stream, payload = self.read()
            if stream in left and (kind == DATA and payload or kind == RST_STREAM or
                                   kind == HEADERS and flags & END_STREAM):
                answered += kind == DATA
                left.discard(stream)
        return answered

    def close(self):
        self.sock.close()
