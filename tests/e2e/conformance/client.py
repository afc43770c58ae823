"""The conformance client in Python: grpcio and generated stubs. README.md tells what the cases mean.

    client.py ADDRESS CASES.json
"""

import base64
import json
import queue
import sys
import time

import grpc
import varved  # noqa: F401 - puts the generated stubs on the path
from google.protobuf import json_format
from google.rpc import error_details_pb2  # noqa: F401 - so that the details of errors are known by name
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from varve.v1 import (admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc, replication_pb2, replication_pb2_grpc,
                      snapshots_pb2, snapshots_pb2_grpc, watch_pb2, watch_pb2_grpc)

MODULES = ((kv_pb2, kv_pb2_grpc), (watch_pb2, watch_pb2_grpc), (snapshots_pb2, snapshots_pb2_grpc),
           (replication_pb2, replication_pb2_grpc), (admin_pb2, admin_pb2_grpc), (health_pb2, health_pb2_grpc),
           (reflection_pb2, reflection_pb2_grpc))


class Mismatch(Exception):
    pass


# ---- the small language of the cases ----

def fill(value, names):
    """A request with "$name", "$name+1" and "$~name" replaced."""
    if isinstance(value, dict):
        return {key: fill(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, names) for item in value]
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    if value.startswith("$~"):
        token = bytearray(base64.b64decode(names[value[2:]]))
        token[-1] ^= 1
        return base64.b64encode(token).decode()
    name, plus, more = value[1:].partition("+")
    return str(int(names[name]) + int(more)) if plus else names[name]


def match(want, got, names):
    """Whether an answer is as wanted; binds the names that it meets first."""
    if want == "$_":
        return got is not None
    if isinstance(want, str) and want.startswith("$"):
        if want[1:].isalnum() and want[1:] not in names:
            names[want[1:]] = got
            return got is not None
        return got == fill(want, names)
    if isinstance(want, dict) and isinstance(got, dict):
        return (all(key == "..." or match(item, got.get(key), names) for key, item in want.items())
                and ("..." in want or got.keys() <= want.keys()))
    if isinstance(want, list) and isinstance(got, list):
        if want[:1] == ["..."]:
            return all(any(match(item, other, names) for other in got) for item in want[1:])
        return len(want) == len(got) and all(match(item, other, names) for item, other in zip(want, got))
    return type(want) is type(got) and want == got


def fold(messages):
    """A stream as one message: lists are joined, of anything else the last message's counts."""
    whole = dict(messages[-1]) if messages else {}
    for name in {name for message in messages for name, value in message.items() if isinstance(value, list)}:
        whole[name] = [item for message in messages for item in message.get(name, [])]
    return whole


def enough(until, messages):
    if until is None:
        return False
    name, count = until
    return (len(fold(messages).get(name, [])) if name else len(messages)) >= count


# ---- calls ----

class Sender:
    """The requests of a stream, which may be sent one after the other for as long as it is open."""

    def __init__(self):
        self.waiting = queue.SimpleQueue()

    def __iter__(self):
        return iter(self.waiting.get, None)


def error_json(error):
    status = rpc_status.from_call(error)  # refuses details that contradict the call's code and message
    answer = as_json(status) if status else {}
    answer["code"] = error.code().value[0]
    answer["message"] = error.details()
    return answer


def as_json(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


class Client:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address, options=[
            ("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)])
        self.services = {}
        for messages, stubs in MODULES:
            for service in messages.DESCRIPTOR.services_by_name.values():
                self.services[service.full_name] = (service, getattr(stubs, f"{service.name}Stub")(self.channel))
        self.streams = {}

    def start(self, step, names):
        """A call under way: an iterator of answers as JSON, and the sender of its requests if it takes several."""
        options = {"timeout": step.get("deadline_ms", 20000) / 1000,
                   "metadata": tuple(step.get("metadata", {}).items())}
        if "raw" in step:
            call = self.channel.unary_unary(f"/{step['rpc']}")
            return iter([call(base64.b64decode(step["raw"]), **options)]), None
        path = step["rpc"].replace("grpc.reflection.v1.", "grpc.reflection.v1alpha.")
        service, stub = self.services[path.split("/")[0]]
        method = service.methods_by_name[path.split("/")[1]]
        call = getattr(stub, method.name)
        if path != step["rpc"]:  # grpcio has v1alpha's messages only, and v1's are the same on the wire
            call = self.channel.stream_stream(f"/{step['rpc']}",
                                              request_serializer=lambda request: request.SerializeToString(),
                                              response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)
        parse = lambda request: json_format.ParseDict(fill(request, names), method.input_type._concrete_class())
        if method.client_streaming:
            sender = Sender()
            return call(iter(sender), **options), (sender, parse)
        answer = call(parse(step.get("request", {})), **options)
        return answer if method.server_streaming else iter([answer]), None

    def run(self, step, names):
        """One step; one with again_ms is tried for that long until it is as wanted."""
        end = time.monotonic() + step.get("again_ms", 0) / 1000
        while True:
            try:
                bound = dict(names)
                self.once(step, bound)
                names.update(bound)
                return
            except Mismatch:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def once(self, step, names):
        messages, error = [], None
        try:
            if "on" in step:
                answers, sender = self.streams[step["on"]]
            else:
                answers, sender = self.start(step, names)
            if sender:
                for request in step.get("requests", []):
                    sender[0].waiting.put(sender[1](request))
                if "until" not in step:
                    sender[0].waiting.put(None)
            while not enough(step.get("until"), messages):
                message = next(answers, None)
                if message is None:
                    if "until" in step:
                        raise Mismatch(f"the stream ended after {json.dumps(messages)}")
                    break
                messages.append(as_json(message) if not isinstance(message, bytes) else {})
            if "keep" in step:
                self.streams[step["keep"]] = answers, sender
            elif "until" in step:
                answers.cancel()
                if sender:
                    sender[0].waiting.put(None)
        except grpc.RpcError as e:
            error = error_json(e)
        check(step, messages, error, names)


def check(step, messages, error, names):
    if not match(step.get("error"), error, names):
        raise Mismatch(f"wanted error {json.dumps(step.get('error'))}, got {json.dumps(error)}")
    if "expect" in step and not match(step["expect"], fold(messages), names):
        raise Mismatch(f"wanted {json.dumps(step['expect'])}, got {json.dumps(fold(messages))}")
    left = list(messages)
    for want in step.get("each", []):
        found = next((got for got in left if match(want, got, dict(names))), None)
        if found is None:
            raise Mismatch(f"wanted {json.dumps(want)}, got {json.dumps(left)}")
        match(want, found, names)
        left.remove(found)
    if "each" in step and left:
        raise Mismatch(f"not wanted: {json.dumps(left)}")


def main(address, cases):
    with open(cases, encoding="utf-8") as file:
        cases = json.load(file)
    client, failed = Client(address), False
    for case in cases:
        names, line = {}, f"pass {case['name']}"
        for number, step in enumerate(case["steps"], 1):
            try:
                client.run(step, names)
            except Mismatch as e:
                line, failed = f"FAIL {case['name']}: step {number}, {step.get('rpc', step.get('on'))}: {e}", True
                break
        print(line, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
