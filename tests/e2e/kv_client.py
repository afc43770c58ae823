"""
The Python client: grpcio with generated stubs. A worker for test_durability.py; kv_client.mjs is its twin.

    kv_client.py load   ADDR MODEL SEED FILES   put every file of the list, then delete and batch some
    kv_client.py churn  ADDR MODEL SEED FILES   write until the server is gone, and keep book
    kv_client.py verify ADDR MODEL              read every key of the model and say what is wrong

FILES holds paths, each ended by a NUL. While it writes it prints `acked N` now and then: N writes were
acknowledged. At the end the model says what must be there (model.py).
"""

import asyncio
import base64
import hashlib
import json
import random
import sys

import grpc

import model as book
from varved import BUILD  # noqa: F401 - puts the stubs on the path
from varve.v1 import kv_pb2, kv_pb2_grpc

TASKS = 48  # writes in flight
BYTES_IN_FLIGHT = 48 << 20
CALL_S = 60
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
           ("grpc.enable_retries", 0)]


def b64(key):
    return base64.b64encode(key).decode()


def digest(value):
    return hashlib.sha256(value).hexdigest()


class Budget:
    """Bounds the bytes of the values that are under way."""

    def __init__(self, limit):
        self.left = limit
        self.limit = limit
        self.changed = asyncio.Condition()

    async def take(self, amount):
        amount = min(amount, self.limit)
        async with self.changed:
            await self.changed.wait_for(lambda: self.left >= amount)
            self.left -= amount
        return amount

    async def give(self, amount):
        async with self.changed:
            self.left += amount
            self.changed.notify_all()


class Writer:
    """Writes and keeps book. Each key is written by one task alone, so that its state is never in doubt."""

    def __init__(self, stub, model, killed):
        self.stub = stub
        self.killed = killed  # whether the server is to be lost
        self.keys = model["keys"]
        self.unknown = model["unknown"]
        self.acked = 0
        self.lost = False
        self.budget = Budget(BYTES_IN_FLIGHT)

    async def write(self, ops):
        """ops: [(key, value or None)]; one is a Put or Delete, several are a Write. False: the server is gone."""
        size = sum(len(value or b"") for _, value in ops)
        taken = await self.budget.take(size)
        try:
            if len(ops) > 1:
                call = self.stub.Write(kv_pb2.WriteRequest(ops=[
                    kv_pb2.Op(delete=kv_pb2.DeleteOp(key=key)) if value is None
                    else kv_pb2.Op(put=kv_pb2.PutOp(key=key, value=value)) for key, value in ops]), timeout=CALL_S)
            elif ops[0][1] is None:
                call = self.stub.Delete(kv_pb2.DeleteRequest(key=ops[0][0]), timeout=CALL_S)
            else:
                call = self.stub.Put(kv_pb2.PutRequest(key=ops[0][0], value=ops[0][1]), timeout=CALL_S)
            response = await call
        except grpc.aio.AioRpcError as e:
            if e.code() != grpc.StatusCode.UNAVAILABLE or not self.killed:
                raise
            self.lost = True
            self.unknown.append({b64(key): {"old": self.keys.get(b64(key)),
                                            "new": None if value is None else digest(value)}
                                 for key, value in ops})
            for key, _ in ops:
                self.keys.setdefault(b64(key), None)
            return False
        finally:
            await self.budget.give(taken)
        assert response.applied, "a write without conditions was not applied"
        first_lsn = response.lsn - len(ops) + 1
        for i, (key, value) in enumerate(ops):
            self.keys[b64(key)] = None if value is None else [digest(value), first_lsn + i]
        self.acked += 1
        if self.acked % 10 == 0:
            print(f"acked {self.acked}", flush=True)
        return True


def read(path):
    with open(path, "rb") as file:
        return file.read()


async def load(writer, paths, rng):
    todo = iter(paths)

    async def task():
        for path in todo:
            await writer.write([(path, read(path))])

    await asyncio.gather(*[task() for _ in range(TASKS)])

    doomed = rng.sample(paths, len(paths) // 10)
    batches = iter([doomed[i:i + 5] for i in range(0, len(doomed), 5)])

    async def remove():
        for group in batches:
            # Half of them one by one, half as a batch that leaves a note in place of what goes.
            if len(group) % 2 == 0 or rng.random() < 0.5:
                for path in group:
                    await writer.write([(path, None)])
            else:
                note = (b"gone/" + group[0], b"\n".join(group))
                await writer.write([(path, None) for path in group] + [note])

    await asyncio.gather(*[remove() for _ in range(TASKS)])


async def churn(writer, paths, rng):
    """Puts (some of them megabytes), deletes and batches over the tree's keys, until the server is gone."""

    async def task(number):
        mine = paths[number::TASKS]
        own = random.Random(f"{rng.random()} {number}")
        turn = 0

        def value():
            return b"%d %d " % (number, turn) + read(own.choice(paths))[own.randrange(64):]

        while not writer.lost:
            turn += 1
            dice = own.random()
            if dice < 0.55:
                ops = [(own.choice(mine), value())]
            elif dice < 0.70:
                ops = [(own.choice(mine), None)]
            else:
                keys = own.sample(mine, min(len(mine), own.randint(2, 8)))
                ops = [(key, value() if own.random() < 0.7 else None) for key in keys]
            await writer.write(ops)

    await asyncio.gather(*[task(number) for number in range(TASKS)])


async def verify(stub, model):
    found = {}
    todo = iter(list(model["keys"]))

    async def task():
        for name in todo:
            response = await stub.Get(kv_pb2.GetRequest(key=base64.b64decode(name)), timeout=CALL_S)
            assert response.found or (response.value == b"" and response.lsn == 0), "not found, but with a value"
            found[name] = [digest(response.value), response.lsn] if response.found else None

    await asyncio.gather(*[task() for _ in range(16)])
    return book.settle(model, found)


async def main(action, address, model_path, seed=None, list_path=None):
    model = book.load(model_path)
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        stub = kv_pb2_grpc.KVStub(channel)
        if action == "verify":
            complaints = await verify(stub, model)
            print(json.dumps({"keys": len(model["keys"]), "complaints": complaints[:20]}), flush=True)
            failed = bool(complaints)
        else:
            paths = read(list_path).split(b"\0")[:-1]
            writer = Writer(stub, model, killed=action == "churn")
            await {"load": load, "churn": churn}[action](writer, paths, random.Random(int(seed)))
            print(f"acked {writer.acked}", flush=True)
            failed = False
    book.save(model_path, model)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
