"""Varve from Python: grpcio, with stubs generated from proto/ (../README.md says how).

    python example.py [HOST:PORT]
"""

import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from varve.v1 import kv_pb2, kv_pb2_grpc, watch_pb2, watch_pb2_grpc

DEADLINE_S = 30


def increment(kv, key):
    """Compare-and-set: write only if the key still is as it was read. An LSN of 0 means that it is not there."""
    while True:
        was = kv.Get(kv_pb2.GetRequest(key=key), timeout=DEADLINE_S)
        value = int(was.value or 0) + 1
        answer = kv.Write(kv_pb2.WriteRequest(
            ops=[kv_pb2.Op(put=kv_pb2.PutOp(key=key, value=str(value).encode()))],
            conditions=[kv_pb2.Condition(key=key, lsn_equals=was.lsn)]), timeout=DEADLINE_S)
        if answer.applied:
            return value


def pages(kv, prefix, size):
    """The keys of a range, some at a time, all of one state of the database."""
    token = b""
    while True:
        keys = []
        for message in kv.Scan(kv_pb2.ScanRequest(prefix=prefix, limit=size, page_token=token, keys_only=True),
                               timeout=DEADLINE_S):
            keys += [entry.key.decode() for entry in message.entries]
            token = message.page_token
        yield keys
        if not token:
            return


def error_reason(error):
    """The reason behind a gRPC status: the ErrorInfo in its details."""
    for detail in rpc_status.from_call(error).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""


def main(address="127.0.0.1:7700"):
    # With TLS and a token: grpc.secure_channel(address, grpc.composite_channel_credentials(
    #     grpc.ssl_channel_credentials(ca), grpc.access_token_call_credentials(token)))
    with grpc.insecure_channel(address) as channel:
        kv, watch = kv_pb2_grpc.KVStub(channel), watch_pb2_grpc.WatchStub(channel)

        # Acknowledged means: on the disk.
        kv.Put(kv_pb2.PutRequest(key=b"greeting", value=b"hello"), timeout=DEADLINE_S)
        print("greeting =", kv.Get(kv_pb2.GetRequest(key=b"greeting"), timeout=DEADLINE_S).value.decode())
        if not kv.Get(kv_pb2.GetRequest(key=b"nobody"), timeout=DEADLINE_S).found:
            print("nobody is not there")

        print("visits =", increment(kv, b"visits"))
        print("visits =", increment(kv, b"visits"))
        late = kv.Write(kv_pb2.WriteRequest(ops=[kv_pb2.Op(delete=kv_pb2.DeleteOp(key=b"visits"))],
                                            conditions=[kv_pb2.Condition(key=b"visits", value_equals=b"1")]),
                        timeout=DEADLINE_S)
        if not late.applied:
            print("a write on an old state was refused")

        # Several operations as one.
        kv.Write(kv_pb2.WriteRequest(ops=[
            kv_pb2.Op(put=kv_pb2.PutOp(key=f"fruit/{name}".encode(), value=b"ripe"))
            for name in ("apple", "banana", "cherry", "damson", "elder")]), timeout=DEADLINE_S)
        for keys in pages(kv, b"fruit/", 2):
            print("page:", *keys)

        # A watch from an LSN misses nothing, whatever is written before it has begun. Messages without events are
        # marks of progress.
        lsn = kv.Put(kv_pb2.PutRequest(key=b"greeting", value=b"good-bye"), timeout=DEADLINE_S).lsn
        changes = watch.Watch(watch_pb2.WatchRequest(prefix=b"greeting", from_lsn=lsn), timeout=DEADLINE_S)
        event = next(event for message in changes for event in message.events)
        changes.cancel()
        print("watched: put", event.key.decode(), "=", event.value.decode())

        try:
            kv.Get(kv_pb2.GetRequest(key=b""), timeout=DEADLINE_S)
        except grpc.RpcError as error:
            print("error:", error.code().name, error_reason(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
