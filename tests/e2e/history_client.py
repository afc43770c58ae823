"""
Clients that write down what they did and when: one process of test_linearizability.py.

    history_client.py FILE SETTINGS

SETTINGS is JSON, see Settings. Lines on stdin: `address HOST:PORT` says where the server is from now on, `stop` ends it.
On stdout it says `begun` once there was an answer, and at the end, in one line of JSON, how many answers of which kind there
were. FILE has the history then (linearizable.py).

Each of the clients does one thing at a time, over a connection that it shares with the others of the process. What has no
answer stays open in the history; half of the writes are named instead (client_id, sequence) and sent again until there is an
answer: one operation, which must have been applied once. What is refused in a way that says that nothing was done is left
out of the history, so that it is an error if it was done.
"""

import asyncio
import collections
import dataclasses
import json
import random
import sys
import time

import grpc
from google.rpc import error_details_pb2, status_pb2

import linearizable
from varved import BUILD  # noqa: F401 - puts the stubs on the path
from varve.v1 import kv_pb2, kv_pb2_grpc, snapshots_pb2, snapshots_pb2_grpc

# The second is how long an attempt to connect may take: on a busy machine that is long.
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.min_reconnect_backoff_ms", 5000),
           ("grpc.max_reconnect_backoff_ms", 100), ("grpc.enable_retries", 0),
           ("grpc.use_local_subchannel_pool", 1)]
# Nothing was done, and nothing will be.
REFUSED = {"NO_SPACE", "SHUTTING_DOWN", "WRITE_STALL", "RATE_LIMITED", "OVERLOADED"}
KEYS = [b"a", b"b", b"c", b"d"]  # of an object, behind its name
VALUE_BYTES_MAX = 3000
AGAIN_S = 30  # how long a named write is tried again before it stays open


@dataclasses.dataclass
class Settings:
    round: str  # what the names of its objects begin with
    number: int  # of this process
    seed: str
    clients: int
    objects: int  # the first two get half of the work
    call_s: float  # until a call is given up
    async_share: float  # of the writes
    named_share: float  # of the writes that are neither asynchronous nor in the pipeline


def prefix(name):
    return name.encode() + b"/"


def reason_of(status):
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return info.reason
    return ""


class Failed(Exception):
    """A call that brought no answer, or a refusal."""

    def __init__(self, code, reason=""):
        super().__init__(f"{code} {reason}".strip())
        self.refused = reason in REFUSED
        # Nobody is there, or nobody who takes a write: to ask again at once would only fill the history.
        self.pause_s = 0.2 if code == "UNAVAILABLE" else 0.01


async def answer(call):
    try:
        return await call
    except grpc.aio.AioRpcError as e:
        status = status_pb2.Status()
        for key, value in e.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                status.ParseFromString(value)
        raise Failed(e.code().name, reason_of(status)) from None


class Pipeline:
    """A stream that several clients share; operations find their answers by id."""

    def __init__(self, stub):
        self.stream = stub.Pipeline()
        self.waiting, self.last = {}, 0
        self.broken = None
        self.reader = asyncio.ensure_future(self._read())

    async def _read(self):
        why = "the stream ended"
        try:
            async for message in self.stream:
                future = self.waiting.pop(message.id, None)
                if future and not future.done():
                    future.set_result(message.result)
        except grpc.aio.AioRpcError as e:
            why = e.code().name
        except asyncio.CancelledError:
            pass
        self.broken = why
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(Failed(why))

    async def call(self, op, durability, timeout):
        if self.broken:
            raise Failed(self.broken)
        self.last += 1
        number = self.last
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            # A stream has no deadline, and neither has a write to it: to give that up ends the stream.
            request = kv_pb2.PipelineRequest(id=number, op=op, durability=durability)
            await asyncio.wait_for(self.stream.write(request), timeout)
            result = await asyncio.wait_for(future, timeout)
        except asyncio.TimeoutError:
            raise Failed("DEADLINE_EXCEEDED") from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise Failed("UNAVAILABLE") from None
        finally:
            self.waiting.pop(number, None)
            if future.done() and not future.cancelled():
                future.exception()  # seen, even where the write has failed before
        if result.WhichOneof("result") == "error":
            raise Failed(grpc.StatusCode[_CODES[result.error.code]].name, reason_of(result.error))
        return getattr(result, result.WhichOneof("result"))

    def close(self):
        self.reader.cancel()
        self.stream.cancel()


_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class Server:
    """Where it is now; the same for all clients of the process."""

    def __init__(self):
        self.changed = asyncio.Event()
        self.channel = self.pipeline = None
        self.over = False
        self.moves = 0
        self.old = []

    def at(self, address):
        self.moves += 1
        if self.channel:
            self.old.append(self.channel)
            self.pipeline.close()
        self.channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self.kv = kv_pb2_grpc.KVStub(self.channel)
        self.snapshots = snapshots_pb2_grpc.SnapshotsStub(self.channel)
        self.pipeline = Pipeline(self.kv)
        self.changed.set()
        self.changed = asyncio.Event()

    def stream(self):
        if self.pipeline.broken:
            self.pipeline = Pipeline(self.kv)
        return self.pipeline

    async def pause(self, seconds):
        """Before the next try; shorter if the server is somewhere else meanwhile."""
        try:
            await asyncio.wait_for(self.changed.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    async def close(self):
        self.pipeline.close()
        for channel in [*self.old, self.channel]:
            await channel.close()


def value_of(word):
    """The bytes of a value: its own name, over and over."""
    size = int(word.rsplit(".", 1)[1])
    return (word.encode() + b" ") * (size // (len(word) + 1) + 1)


def word_of(data):
    """The name of a value; every byte of it must be as it was written."""
    word = data.split(b" ", 1)[0].decode(errors="replace")
    try:
        good = value_of(word) == data
    except (ValueError, IndexError):
        good = False
    return word if good else f"damaged: {data[:40]!r}"


class Client:
    def __init__(self, settings, server, number, history, counts):
        self.settings, self.server, self.history, self.counts = settings, server, history, counts
        self.open = []  # what has got no answer
        self.id = settings.number * 1000 + number
        self.incarnation = 0
        self.rng = random.Random(f"{settings.seed} {settings.round} {self.id}")
        self.name = (self.rng.getrandbits(63) | 1, 0)  # client_id, sequence
        self.written = 0
        self.known = {}  # (object, key) -> (word or None, LSN) as last heard of

    async def run(self):
        moves = self.server.moves
        while not self.server.over:
            if moves != self.server.moves:
                # A crash takes back asynchronous writes, and their LSNs are given to others.
                moves = self.server.moves
                self.known.clear()
            hot = self.rng.random() < 0.5
            number = self.rng.randrange(2) if hot else self.rng.randrange(self.settings.objects)
            name = f"{self.settings.round}/{number}"
            kind = self.rng.choices([self.get, self.put, self.delete, self.batch, self.conditional, self.multi_get, self.scan,
                                     self.snapshot], [20, 24, 9, 12, 15, 8, 8, 4])[0]
            await kind(name)

    # ---- writing it down ----

    async def operation(self, name, kind, call, named=False, **parts):
        """One line of the history. call(): the parts that the answer tells; `set` is what is written if it was done."""
        begun = time.monotonic_ns()
        op = {"object": name, "client": self.id * 1000 + self.incarnation, "kind": kind, "call": begun, "return": None, **parts}
        give_up = time.monotonic() + AGAIN_S
        unknown = False  # whether an earlier try may have been done
        while True:
            try:
                op.update(await call(op))
                op["return"] = time.monotonic_ns()
                if not self.history:
                    print("begun", flush=True)
                self.counts[kind] += 1
                self.history.append(op)
                return op
            except Failed as e:
                self.counts[f"{kind}: {e}"] += 1
                unknown |= not e.refused
                if named and unknown and time.monotonic() < give_up and not self.server.over:
                    await self.server.pause(e.pause_s)
                    continue
                if unknown and op.get("set"):
                    self.incarnation += 1
                    self.open.append(op)
                await self.server.pause(e.pause_s)
                return None

    def new_word(self):
        self.written += 1
        size = self.rng.randrange(VALUE_BYTES_MAX) if self.rng.random() < 0.3 else 0
        return f"{self.id}.{self.written}.{size}"

    def durability(self):
        return kv_pb2.DURABILITY_ASYNC if self.rng.random() < self.settings.async_share else kv_pb2.DURABILITY_SYNC

    def naming(self, durability):
        """The fields that name a write, or none."""
        if durability == kv_pb2.DURABILITY_ASYNC or self.rng.random() >= self.settings.named_share:
            return {}
        self.name = (self.name[0], self.name[1] + 1)
        return {"client_id": self.name[0], "sequence": self.name[1]}

    def heard(self, name, key, result):
        """What a read says of one key: its parts of the history."""
        word = word_of(result.value) if result.found else None
        self.known[name, key] = (word, result.lsn)
        return word, result.lsn

    def read_parts(self, name, results):
        parts = {"is": {}, "seen": {}}
        for key, result in results:
            word, lsn = self.heard(name, key, result)
            parts["is"][key.decode()] = word
            if word is not None:
                parts["seen"][key.decode()] = lsn
        return parts

    # ---- reads ----

    async def get(self, name):
        key = self.rng.choice(KEYS)
        through_stream = self.rng.random() < 0.3

        async def call(_):
            full = prefix(name) + key
            if through_stream:
                result = await self.server.stream().call(kv_pb2.Op(get=kv_pb2.GetOp(key=full)), 0, self.settings.call_s)
            else:
                result = await answer(self.server.kv.Get(kv_pb2.GetRequest(key=full), timeout=self.settings.call_s))
            return self.read_parts(name, [(key, result)])

        await self.operation(name, "get", call)

    async def multi_get(self, name):
        keys = self.rng.sample(KEYS, self.rng.randint(2, 4))

        async def call(_):
            request = kv_pb2.MultiGetRequest(keys=[prefix(name) + key for key in keys])
            found = await answer(self.server.kv.MultiGet(request, timeout=self.settings.call_s))
            return self.read_parts(name, zip(keys, found.results))

        await self.operation(name, "multi_get", call)

    async def scan(self, name):
        reverse = self.rng.random() < 0.3

        async def call(_):
            entries = {}
            request = kv_pb2.ScanRequest(prefix=prefix(name), reverse=reverse)

            async def collect():
                async for message in self.server.kv.Scan(request, timeout=self.settings.call_s):
                    for entry in message.entries:
                        entries[entry.key.removeprefix(prefix(name))] = kv_pb2.GetResponse(
                            found=True, value=entry.value, lsn=entry.lsn)

            await answer(collect())
            return self.read_parts(name, [(key, entries.get(key, kv_pb2.GetResponse())) for key in KEYS])

        await self.operation(name, "scan", call)

    async def snapshot(self, name):
        """Its state is that of a moment while it was opened, whatever is read from it later."""
        lease = []

        async def open_(_):
            opened = await answer(self.server.snapshots.Open(snapshots_pb2.OpenRequest(lease_ms=10000),
                                                             timeout=self.settings.call_s))
            lease.append((opened.id, time.monotonic_ns()))
            keys = self.rng.sample(KEYS, len(KEYS))
            results = [(key, await answer(self.server.kv.Get(kv_pb2.GetRequest(
                key=prefix(name) + key, snapshot_id=opened.id), timeout=self.settings.call_s))) for key in keys]
            return self.read_parts(name, results)

        known = dict(self.known)
        if op := await self.operation(name, "snapshot", open_):
            op["return"] = lease[0][1]
        self.known = known  # it is older than other things that were heard
        if lease:
            try:
                await answer(self.server.snapshots.Release(snapshots_pb2.ReleaseRequest(id=lease[0][0]),
                                                           timeout=self.settings.call_s))
            except Failed:
                pass  # it expires

    # ---- writes ----

    async def put(self, name):
        key, word, durability = self.rng.choice(KEYS), self.new_word(), self.durability()
        full, value = prefix(name) + key, value_of(word)
        through_stream = self.rng.random() < 0.3
        naming = {} if through_stream else self.naming(durability)

        async def call(_):
            if through_stream:
                op = kv_pb2.Op(put=kv_pb2.PutOp(key=full, value=value))
                result = await self.server.stream().call(op, durability, self.settings.call_s)
            else:
                result = await answer(self.server.kv.Put(kv_pb2.PutRequest(
                    key=full, value=value, durability=durability, **naming), timeout=self.settings.call_s))
            return {"lsn": result.lsn}

        await self.write(name, "put", call, naming, durability, {key: word})

    async def delete(self, name):
        key, durability = self.rng.choice(KEYS), self.durability()
        full = prefix(name) + key
        through_stream = self.rng.random() < 0.3
        naming = {} if through_stream else self.naming(durability)

        async def call(_):
            if through_stream:
                op = kv_pb2.Op(delete=kv_pb2.DeleteOp(key=full))
                result = await self.server.stream().call(op, durability, self.settings.call_s)
            else:
                result = await answer(self.server.kv.Delete(kv_pb2.DeleteRequest(
                    key=full, durability=durability, **naming), timeout=self.settings.call_s))
            return {"lsn": result.lsn}

        await self.write(name, "delete", call, naming, durability, {key: None})

    async def write(self, name, kind, call, naming, durability, sets, **parts):
        op = await self.operation(name, kind, call, bool(naming), set={key.decode(): word for key, word in sets.items()},
                                  sync=durability == kv_pb2.DURABILITY_SYNC, **parts)
        if op and op["set"]:
            for key, lsn in linearizable.write_lsns(op).items():
                self.known[name, key.encode()] = (op["set"][key], lsn if op["set"][key] is not None else 0)

    async def batch(self, name):
        await self._batch(name, "batch", {})

    async def conditional(self, name):
        await self._batch(name, "conditional", {key: self.known.get((name, key), (None, 0)) for key in
                                                self.rng.sample(KEYS, self.rng.choice([1, 1, 1, 2]))})

    async def _batch(self, name, kind, expected):
        count = self.rng.randint(2, 4) if not expected or self.rng.random() < 0.3 else 1
        sets = {key: self.new_word() if self.rng.random() < 0.75 else None for key in self.rng.sample(KEYS, count)}
        durability = self.durability()
        naming = self.naming(durability)
        request = kv_pb2.WriteRequest(durability=durability, **naming)
        for key, word in sets.items():
            full = prefix(name) + key
            request.ops.append(kv_pb2.Op(delete=kv_pb2.DeleteOp(key=full)) if word is None else
                               kv_pb2.Op(put=kv_pb2.PutOp(key=full, value=value_of(word))))
        for key, (word, lsn) in expected.items():
            condition = request.conditions.add(key=prefix(name) + key)
            if self.rng.random() < 0.5:
                condition.lsn_equals = lsn
            elif word is None:
                condition.absent = True
            else:
                condition.value_equals = value_of(word)
        must = {key.decode(): word for key, (word, _) in expected.items()}

        async def call(op):
            result = await answer(self.server.kv.Write(request, timeout=self.settings.call_s))
            if result.applied:
                return {"lsn": result.lsn}
            parts = {"kind": f"{kind}, not applied", "set": {}, "is": {}, "not": {}, "current": {}}
            for (key, word), said in zip(must.items(), result.conditions):
                parts["is" if said.held else "not"][key] = word
                if not said.held:
                    parts["current"][key] = said.current_lsn
                    # Asking again for what is not there would fail for ever.
                    self.known.pop((name, key.encode()), None)
            if not parts["not"]:
                raise AssertionError(f"not applied, but all conditions held: {op}")
            return parts

        await self.write(name, kind, call, naming, durability, sets, **({"is": must} if must else {}))


async def commands(server):
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    first = asyncio.Event()

    async def follow():
        async for line in reader:
            word, *rest = line.decode().split()
            if word == "stop":
                break
            server.at(rest[0])
            first.set()
        server.over = True
        server.changed.set()
        first.set()

    task = asyncio.ensure_future(follow())
    await first.wait()
    return task


async def main(path, settings):
    settings = Settings(**json.loads(settings))
    server, history, counts = Server(), [], collections.Counter()
    task = await commands(server)
    if server.channel:
        clients = [Client(settings, server, number, history, counts) for number in range(settings.clients)]
        running = [asyncio.ensure_future(client.run()) for client in clients]
        await asyncio.wait([*running, task], return_when=asyncio.FIRST_COMPLETED)
        _, pending = await asyncio.wait(running, timeout=10 * settings.call_s)
        for client in pending:
            client.print_stack()
        assert not pending, "clients that do not end"
        await asyncio.gather(*running)
        history += [op for client in clients for op in client.open]
        await server.close()
    linearizable.save(path, history)
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
