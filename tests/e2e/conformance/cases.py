"""
The conformance cases: every RPC and every error that a client can bring about. README.md tells what they mean.

They are written in Python for the sake of bytes literals and of what repeats, and given to the clients as JSON
(document()), the requests and answers as proto3's JSON.
"""

import base64
import hashlib

CODES = {name: number for number, name in enumerate(
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
    "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
    "UNAUTHENTICATED".split())}
MAX_VALUE = 64 << 10
ANY = "$_"


# ---- words for the cases ----

def step(rpc, request=None, expect=None, **more):
    """One call, and its answer."""
    return {"rpc": rpc if "." in rpc else f"varve.v1.{rpc}",
            **({} if request is None else {"request": request}), **({} if expect is None else {"expect": expect}),
            **more}


def status(code, reason=None, retry=False, **metadata):
    """A google.rpc.Status as every error has it."""
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "varve"}
    if metadata:
        info["metadata"] = metadata
    wait = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": ANY}] if retry else []
    return {"code": CODES[code], "message": ANY, **({"details": [info, *wait]} if reason else {})}


def refused(rpc, request, code, reason, retry=False, **more):
    return step(rpc, request, error=status(code, reason, retry), **more)


def invalid(rpc, request, reason, **more):
    return refused(rpc, request, "INVALID_ARGUMENT", reason, **more)


def get(key, expect, **more):
    return step("KV/Get", {"key": key, **more}, expect)


def put(key, value=b"v", lsn=ANY, **more):
    return step("KV/Put", {"key": key, "value": value, **more}, {"lsn": lsn, "applied": True})


def delete(key, lsn=ANY, **more):
    return step("KV/Delete", {"key": key, **more}, {"lsn": lsn, "applied": True})


def found(value, lsn=ANY, **more):
    return {"found": True, **({"value": value} if value else {}), "lsn": lsn, **more}


def entry(key, value=b"v", lsn=ANY):
    return {"key": key, **({"value": value} if value else {}), "lsn": lsn}


def fill(prefix, count, value=b"v"):
    return step("KV/Write", {"ops": [{"put": {"key": prefix + b"%02d" % i, "value": value}} for i in range(count)]},
                {"lsn": ANY, "applied": True})


MISSING = {}

# ---- KV ----

KV = {
    "get of nothing": [get(b"nothing", MISSING)],
    "put, get, overwrite, delete": [
        put(b"k", b"one", "$a"), get(b"k", found(b"one", "$a")),
        put(b"k", b"two", "$a+1"), get(b"k", found(b"two", "$a+1")),
        delete(b"k", "$a+2"), get(b"k", MISSING), delete(b"k")],
    "an empty value is a value": [put(b"empty", b"", "$a"), get(b"empty", found(b"", "$a"))],
    "any byte in keys and values": [
        put(bytes(range(256)), bytes(range(255, -1, -1))), put(b"\0"), put(b"\xff\xff"),
        get(bytes(range(256)), found(bytes(range(255, -1, -1)))), get(b"\0", found(b"v")), get(b"\0\0", MISSING)],
    "the longest key and the largest value": [
        put(b"k" * 65535, b"x" * MAX_VALUE, "$a"), get(b"k" * 65535, found(b"x" * MAX_VALUE, "$a"))],
    "durability": [
        put(b"async", b"1", durability="DURABILITY_ASYNC"), get(b"async", found(b"1")),
        put(b"async", b"2", durability="DURABILITY_SYNC"), get(b"async", found(b"2")),
        delete(b"async", durability="DURABILITY_ASYNC"), get(b"async", MISSING)],
    "a value expires": [
        put(b"lasting", b"v", "$a", ttl_ms=3600000),
        get(b"lasting", found(b"v", "$a", expires_unix_ms=ANY)),
        put(b"brief", b"v", ttl_ms=1), step("KV/Get", {"key": b"brief"}, MISSING, again_ms=10000)],
    "bad keys and values": [
        invalid("KV/Get", {}, "KEY_EMPTY"), invalid("KV/Put", {"value": b"v"}, "KEY_EMPTY"),
        invalid("KV/Delete", {}, "KEY_EMPTY"),
        invalid("KV/Get", {"key": b"k" * 65536}, "KEY_TOO_LONG"),
        invalid("KV/Put", {"key": b"k" * 65536}, "KEY_TOO_LONG"),
        invalid("KV/Delete", {"key": b"k" * 65536}, "KEY_TOO_LONG"),
        invalid("KV/Put", {"key": b"big", "value": b"x" * (MAX_VALUE + 1)}, "VALUE_TOO_LARGE"),
        get(b"big", MISSING)],
    "an unknown durability": [
        step("KV/Put", raw=b"\x0a\x01k\x18\x63", error=status("INVALID_ARGUMENT", "BAD_DURABILITY")),
        get(b"k", MISSING)],
    "what is no message": [
        step("KV/Get", raw=b"\x0a\x7fk", error=status("INVALID_ARGUMENT", "MALFORMED")),
        step("KV/Put", raw=b"\xff", error=status("INVALID_ARGUMENT", "MALFORMED")),
        step("KV/Write", raw=b"\x0a\x02\x0a\x7f", error=status("INVALID_ARGUMENT", "MALFORMED")),
        step("KV/Write", raw=b"\x0a\0" * 300000, error=status("RESOURCE_EXHAUSTED", "REQUEST_TOO_COMPLEX"))],
    "what is no method": [
        step("KV/NoSuch", raw=b"", error=status("UNIMPLEMENTED", "UNKNOWN_METHOD")),
        step("no.Such/Service", raw=b"", error=status("UNIMPLEMENTED", "UNKNOWN_METHOD"))],
    "a write of several": [
        put(b"w2", b"old", "$a"),
        step("KV/Write", {"ops": [{"put": {"key": b"w1", "value": b"1"}}, {"delete": {"key": b"w2"}},
                                  {"put": {"key": b"w3", "value": b"x"}}, {"put": {"key": b"w3", "value": b"3"}}]},
             {"lsn": "$a+4", "applied": True}),
        get(b"w1", found(b"1", "$a+1")), get(b"w2", MISSING), get(b"w3", found(b"3", "$a+4"))],
    "bad writes": [
        invalid("KV/Write", {}, "BATCH_EMPTY"),
        invalid("KV/Write", {"ops": [{}]}, "OP_EMPTY"),
        invalid("KV/Write", {"ops": [{"get": {"key": b"k"}}]}, "OP_EMPTY"),
        invalid("KV/Write", {"ops": [{"put": {"key": b"w"}}, {"delete": {}}]}, "KEY_EMPTY"),
        invalid("KV/Write", {"ops": [{"put": {"key": b"w", "value": b"x" * MAX_VALUE}}] * 17}, "BATCH_TOO_LARGE"),
        invalid("KV/Write", {"ops": [{"put": {"key": b"w"}}], "conditions": [{"key": b"k"}]}, "CONDITION_EMPTY"),
        invalid("KV/Write", {"ops": [{"put": {"key": b"w"}}], "conditions": [{"absent": True}]}, "KEY_EMPTY"),
        get(b"w", MISSING)],
    "conditions hold": [
        step("KV/Write", {"ops": [{"put": {"key": b"c", "value": b"1"}}],
                          "conditions": [{"key": b"c", "absent": True}]}, {"lsn": "$a", "applied": True}),
        step("KV/Write", {"ops": [{"put": {"key": b"c", "value": b"2"}}],
                          "conditions": [{"key": b"c", "lsn_equals": "$a"}]}, {"lsn": "$b", "applied": True}),
        step("KV/Write", {"ops": [{"put": {"key": b"c", "value": b"3"}}],
                          "conditions": [{"key": b"c", "value_equals": b"2"}, {"key": b"d", "absent": True}]},
             {"lsn": "$c", "applied": True}),
        get(b"c", found(b"3", "$c"))],
    "conditions fail": [
        put(b"c", b"1", "$a"),
        step("KV/Write", {"ops": [{"put": {"key": b"e", "value": b"2"}}],
                          "conditions": [{"key": b"c", "absent": True}, {"key": b"c", "lsn_equals": "$a+1"},
                                         {"key": b"c", "value_equals": b"2"}, {"key": b"c", "value_equals": b"1"},
                                         {"key": b"no", "value_equals": b""}, {"key": b"no", "absent": True}]},
             {"conditions": [{"current_lsn": "$a"}, {"current_lsn": "$a"}, {"current_lsn": "$a"},
                             {"held": True, "current_lsn": "$a"}, {}, {"held": True}]}),
        get(b"e", MISSING)],
    "many keys as of one state": [
        put(b"m1", b"1", "$a"), put(b"m3", b"3", "$b"),
        step("KV/MultiGet", {"keys": [b"m3", b"m2", b"m1", b"m3"]},
             {"results": [found(b"3", "$b"), MISSING, found(b"1", "$a"), found(b"3", "$b")]}),
        step("KV/MultiGet", {}, {}),
        invalid("KV/MultiGet", {"keys": [b"m"] * 10001}, "TOO_MANY_KEYS"),
        put(b"large", b"x" * MAX_VALUE),
        refused("KV/MultiGet", {"keys": [b"large"] * 100}, "RESOURCE_EXHAUSTED", "RESPONSE_TOO_LARGE"),
        invalid("KV/MultiGet", {"keys": [b"m1", b""]}, "KEY_EMPTY"),
        invalid("KV/MultiGet", {"keys": [b"k" * 65536]}, "KEY_TOO_LONG")],
}

RETRIES = {
    "a write that is sent again is applied once": [
        put(b"r", b"1", "$a", client_id="7", sequence="1"),
        put(b"r", b"other", "$b"),
        step("KV/Put", {"key": b"r", "value": b"1", "client_id": "7", "sequence": "1"}, {"lsn": "$a", "applied": True}),
        get(b"r", found(b"other", "$b")),
        delete(b"r", "$c", client_id="7", sequence="2"), put(b"r", b"new", "$d"),
        delete(b"r", "$c", client_id="7", sequence="2"), get(b"r", found(b"new", "$d")),
        step("KV/Write", {"ops": [{"put": {"key": b"r", "value": b"3"}}], "client_id": "7", "sequence": "3"},
             {"lsn": "$e", "applied": True}),
        put(b"r", b"newer", "$f"),
        step("KV/Write", {"ops": [{"put": {"key": b"r", "value": b"3"}}], "client_id": "7", "sequence": "3"},
             {"lsn": "$e", "applied": True}),
        get(b"r", found(b"newer", "$f"))],
}

# ---- Scan ----

def scan(request, entries, **answer):
    return step("KV/Scan", request, {"entries": entries, **answer} if entries else answer)


S = [entry(b"s%02d" % i) for i in range(10)]

SCAN = {
    "ranges": [
        fill(b"s", 10),
        scan({"prefix": b"s"}, S), scan({"prefix": b"s", "reverse": True}, S[::-1]),
        scan({"start": b"s03", "end": b"s06"}, S[3:6]), scan({"start": b"s03\0", "end": b"s06"}, S[4:6]),
        scan({"start": b"s03", "end": b"s06", "reverse": True}, S[5:2:-1]),
        scan({"prefix": b"s0", "start": b"s07"}, S[7:]), scan({"prefix": b"s", "end": b"s02"}, S[:2]),
        scan({"prefix": b"sx"}, []), scan({"start": b"s05", "end": b"s05"}, []),
        scan({"prefix": b"s", "keys_only": True}, [entry(b"s%02d" % i, b"") for i in range(10)])],
    "pages": [
        fill(b"s", 10),
        scan({"prefix": b"s", "limit": "4"}, S[:4], page_token="$t"),
        # What is written meanwhile is not seen: the token stands for one state.
        put(b"s05", b"new"), delete(b"s06"),
        scan({"prefix": b"s", "limit": "4", "page_token": "$t"}, S[4:8], page_token="$u"),
        scan({"prefix": b"s", "page_token": "$u"}, S[8:]),
        scan({"prefix": b"s", "limit": "4", "page_token": "$t"}, S[4:8], page_token=ANY),
        scan({"prefix": b"s", "reverse": True, "limit": "3"}, [S[9], S[8], S[7]], page_token="$r"),
        scan({"prefix": b"s", "reverse": True, "page_token": "$r"},
             [entry(b"s05", b"new"), *S[4::-1]])],
    "forged page tokens": [
        fill(b"s", 10),
        scan({"prefix": b"s", "limit": "4"}, S[:4], page_token="$t"),
        invalid("KV/Scan", {"prefix": b"s", "page_token": "$~t"}, "BAD_PAGE_TOKEN"),
        invalid("KV/Scan", {"prefix": b"s", "page_token": b"x"}, "BAD_PAGE_TOKEN"),
        invalid("KV/Scan", {"prefix": b"s", "page_token": bytes(64)}, "BAD_PAGE_TOKEN"),
        invalid("KV/Scan", {"prefix": b"s", "page_token": b"\xff" * 4096}, "BAD_PAGE_TOKEN"),
        # Of another range or direction.
        invalid("KV/Scan", {"prefix": b"t", "page_token": "$t"}, "BAD_PAGE_TOKEN"),
        invalid("KV/Scan", {"prefix": b"s", "reverse": True, "page_token": "$t"}, "BAD_PAGE_TOKEN")],
    "bad ranges": [
        invalid("KV/Scan", {"start": b"b", "end": b"a"}, "BAD_RANGE"),
        invalid("KV/Scan", {"start": b"k" * 65536}, "KEY_TOO_LONG")],
    "more than one message": [
        *[step("KV/Write", {"ops": [{"put": {"key": b"big%d%d" % (i, j), "value": b"%d" % j * 60000}}
                                    for j in range(10)]}, {"lsn": ANY, "applied": True}) for i in range(4)],
        step("KV/Scan", {"prefix": b"big"}, {"entries": [entry(b"big%d%d" % (i, j), b"%d" % j * 60000)
                                                         for i in range(4) for j in range(10)]})],
}

# ---- Pipeline ----

def ops(*ops, **more):
    return [{"id": str(number), "op": op, **more} for number, op in enumerate(ops, 1)]


def answer(number, **result):
    return {"id": str(number), "result": result}


PIPELINE = {
    "every operation, in order for a key": [step(
        "KV/Pipeline",
        requests=ops({"put": {"key": b"p", "value": b"1"}}, {"get": {"key": b"p"}}, {"delete": {"key": b"p"}},
                     {"get": {"key": b"p"}}, {"put": {"key": b"p", "value": b"2", "ttl_ms": "3600000"}},
                     {"get": {"key": b"p"}}),
        each=[answer(1, write={"lsn": "$a", "applied": True}), answer(2, get=found(b"1", "$a")),
              answer(3, write={"lsn": "$b", "applied": True}), answer(4, get={}),
              answer(5, write={"lsn": "$c", "applied": True}),
              answer(6, get=found(b"2", "$c", expires_unix_ms=ANY))])],
    "an error is of one operation": [step(
        "KV/Pipeline",
        requests=ops({"put": {"value": b"1"}}, {"put": {"key": b"p", "value": b"x" * (MAX_VALUE + 1)}}, {},
                     {"get": {"key": b"k" * 65536}}, {"put": {"key": b"p", "value": b"1"}}),
        each=[answer(1, error=status("INVALID_ARGUMENT", "KEY_EMPTY")),
              answer(2, error=status("INVALID_ARGUMENT", "VALUE_TOO_LARGE")),
              answer(3, error=status("INVALID_ARGUMENT", "OP_EMPTY")),
              answer(4, error=status("INVALID_ARGUMENT", "KEY_TOO_LONG")),
              answer(5, write={"lsn": ANY, "applied": True})])],
    "it stays open between operations": [
        step("KV/Pipeline", requests=ops({"put": {"key": b"p", "value": b"1"}}), until=["", 1], keep="p",
             expect=answer(1, write={"lsn": "$a", "applied": True})),
        get(b"p", found(b"1", "$a")),
        {"on": "p", "requests": ops({"get": {"key": b"p"}}), "each": [answer(1, get=found(b"1", "$a"))]}],
    "several in one message": [step(
        "KV/Pipeline", requests=[{"id": "1", "op": {"put": {"key": b"p1", "value": b"1"}}, "more": [
            {"id": "2", "op": {"get": {"key": b"p1"}}}, {"id": "3", "op": {}}]}],
        # Who has sent several in one message may get several in one: only that the call ends well is the same always.
        expect={"...": True})],
    "nothing asked, nothing answered": [step("KV/Pipeline", requests=[], each=[])],
}

# ---- Watch, Snapshots ----

def event(key, value=b"v", lsn=ANY, **more):
    return {"key": key, **({"value": value} if value else {}), "lsn": lsn, **more}


def watch(request, count, expect, **more):
    return step("Watch/Watch", request, expect, until=["events", count], **more)


DELETED = {"type": "EVENT_TYPE_DELETE"}

WATCH = {
    "from an LSN": [
        put(b"a1", b"1", "$a"), put(b"b1", b"2", "$b"), delete(b"a1", "$c"),
        step("KV/Write", {"ops": [{"put": {"key": b"a2", "value": b"3"}}, {"put": {"key": b"a3"}},
                                  {"put": {"key": b"b2"}}]}, {"lsn": "$d", "applied": True}),
        # Three events are asked for, and the fourth comes with the third: a write is never split.
        watch({"prefix": b"a", "from_lsn": "$a"}, 3,
              {"events": [event(b"a1", b"1", "$a"), event(b"a1", b"", "$c", **DELETED),
                          event(b"a2", b"3", "$c+1"), event(b"a3", b"", "$c+2")], "lsn": "$d"}),
        watch({"start": b"a2", "end": b"b1", "from_lsn": "$a"}, 1,
              {"events": [event(b"a2", b"3", "$c+1"), event(b"a3", b"", "$c+2")], "lsn": "$d"}),
        watch({"from_lsn": "$c+2"}, 1,
              {"events": [event(b"a2", b"3", "$c+1"), event(b"a3", b"", "$c+2"), event(b"b2", b"", "$d")],
               "lsn": "$d"})],
    "from now on, as it happens": [
        put(b"w0"),
        # The mark that begins a watch tells what is known.
        step("Watch/Watch", {"prefix": b"w"}, {"lsn": ANY}, until=["", 1], keep="w"),
        put(b"w1", b"1", "$a"),
        {"on": "w", "until": ["events", 1], "keep": "w", "expect": {"events": [event(b"w1", b"1", "$a")], "lsn": ANY}},
        put(b"v"), put(b"w2", b"2", "$b", ttl_ms=3600000),
        {"on": "w", "until": ["events", 1],
         "expect": {"events": [event(b"w2", b"2", "$b", expires_unix_ms=ANY)], "lsn": ANY}}],
    "a watch has a deadline": [
        step("Watch/Watch", {}, deadline_ms=300, error={"code": CODES["DEADLINE_EXCEEDED"], "...": True})],
    "an LSN that is not there yet": [invalid("Watch/Watch", {"from_lsn": "1000000000"}, "LSN_IN_FUTURE")],
    "bad ranges of watches": [
        invalid("Watch/Watch", {"start": b"b", "end": b"a"}, "BAD_RANGE"),
        invalid("Watch/Watch", {"prefix": b"k" * 65536}, "KEY_TOO_LONG")],
}

SNAPSHOTS = {
    "a snapshot is one state": [
        put(b"n1", b"1", "$a"), put(b"n2", b"1", "$b"),
        step("Snapshots/Open", {"lease_ms": "60000"}, {"id": "$id", "lsn": "$b", "expires_unix_ms": ANY}),
        put(b"n1", b"2"), delete(b"n2"), put(b"n3"),
        get(b"n1", found(b"1", "$a"), snapshot_id="$id"), get(b"n3", MISSING, snapshot_id="$id"),
        step("KV/MultiGet", {"keys": [b"n1", b"n2", b"n3"], "snapshot_id": "$id"},
             {"results": [found(b"1", "$a"), found(b"1", "$b"), MISSING]}),
        scan({"prefix": b"n", "snapshot_id": "$id"}, [entry(b"n1", b"1", "$a"), entry(b"n2", b"1", "$b")]),
        scan({"prefix": b"n", "snapshot_id": "$id", "limit": "1"}, [entry(b"n1", b"1", "$a")], page_token="$t"),
        scan({"prefix": b"n", "snapshot_id": "$id", "page_token": "$t"}, [entry(b"n2", b"1", "$b")]),
        step("Snapshots/Renew", {"id": "$id", "lease_ms": "90000"}, {"id": "$id", "lsn": "$b", "expires_unix_ms": ANY}),
        step("Snapshots/Release", {"id": "$id"}, {}), step("Snapshots/Release", {"id": "$id"}, {}),
        refused("KV/Get", {"key": b"n1", "snapshot_id": "$id"}, "NOT_FOUND", "SNAPSHOT_UNKNOWN"),
        refused("KV/MultiGet", {"keys": [b"n1"], "snapshot_id": "$id"}, "NOT_FOUND", "SNAPSHOT_UNKNOWN"),
        refused("KV/Scan", {"snapshot_id": "$id"}, "NOT_FOUND", "SNAPSHOT_UNKNOWN"),
        refused("Snapshots/Renew", {"id": "$id"}, "NOT_FOUND", "SNAPSHOT_UNKNOWN")],
    "a lease ends": [
        step("Snapshots/Open", {"lease_ms": "1"}, {"id": "$id", "...": True}),
        refused("KV/Get", {"key": b"k", "snapshot_id": "$id"}, "NOT_FOUND", "SNAPSHOT_UNKNOWN", again_ms=10000),
        refused("Snapshots/Renew", {"id": "$id"}, "NOT_FOUND", "SNAPSHOT_UNKNOWN"),
        step("Snapshots/Release", {"id": "$id"}, {})],
    "the default lease": [
        step("Snapshots/Open", {}, {"id": "$id", "expires_unix_ms": ANY, "...": True}),
        step("Snapshots/Release", {"id": "$id"}, {})],
}

# ---- reads of what is there, or will be ----

MIN_LSN = {
    "reads that want an LSN": [
        put(b"min", b"v", "$a"), get(b"min", found(b"v", "$a"), min_lsn="$a"),
        step("KV/MultiGet", {"keys": [b"min"], "min_lsn": "$a"}, {"results": [found(b"v", "$a")]}),
        scan({"prefix": b"min", "min_lsn": "$a"}, [entry(b"min", b"v", "$a")]),
        step("Snapshots/Open", {"min_lsn": "$a"}, {"id": ANY, "lsn": "$a", "expires_unix_ms": ANY})],
    "what is not there in time": [
        step(*call, deadline_ms=300, error={"code": CODES["DEADLINE_EXCEEDED"], "...": True})
        for call in (("KV/Get", {"key": b"min", "min_lsn": "1000000000"}),
                     ("KV/MultiGet", {"keys": [b"min"], "min_lsn": "1000000000"}),
                     ("KV/Scan", {"min_lsn": "1000000000"}), ("Snapshots/Open", {"min_lsn": "1000000000"}))],
    "an LSN of another state": [
        invalid("KV/Get", {"key": b"min", "min_lsn": "1", "snapshot_id": "1"}, "BAD_MIN_LSN"),
        invalid("KV/MultiGet", {"keys": [b"min"], "min_lsn": "1", "snapshot_id": "1"}, "BAD_MIN_LSN"),
        invalid("KV/Scan", {"min_lsn": "1", "snapshot_id": "1"}, "BAD_MIN_LSN"),
        invalid("KV/Scan", {"min_lsn": "1", "page_token": b"x"}, "BAD_MIN_LSN")],
}

# ---- Replication ----

REPLICATION = {
    "what a server is": [
        put(b"k", b"v", "$a"),
        step("Replication/Hello", {}, {"database_id": "$id", "role": "primary", "durable_lsn": "$a", "...": True}),
        step("Replication/Hello", {"database_id": "$id"}, {"...": True}),
        refused("Replication/Hello", {"database_id": bytes(16)}, "FAILED_PRECONDITION", "WRONG_DATABASE")],
    "a promise that comes too late": [step(
        "Replication/Hello", {"promise_epoch": "1"}, error=status("FAILED_PRECONDITION", "EPOCH_TOO_OLD", epoch=ANY))],
    "the log": [
        put(b"k", b"v", "$a"), put(b"k", b"v", "$a+1"),
        step("Replication/StreamWal", {"after_lsn": "$a", "until_end": True},
             {"last_lsn": "$a+1", "records": ANY, "checksum": ANY, "...": True})],
    "a log that has parted": [step(
        "Replication/StreamWal", {"after_lsn": "1", "history": [{"epoch": "1", "first_lsn": "1", "id": "1"}]},
        error=status("FAILED_PRECONDITION", "DIVERGED"))],
    "a log that is longer than the primary's": [
        put(b"k", b"v", "$a"), step("Replication/Hello", {}, {"history": "$history", "...": True}),
        step("Replication/StreamWal", {"after_lsn": str(2**62), "history": "$history"},
             error=status("FAILED_PRECONDITION", "DIVERGED", common_lsn="$a")),
        invalid("Replication/StreamWal", {"after_lsn": str(2**62)}, "LSN_IN_FUTURE")],
    "a follower's session": [
        put(b"k", b"v", "$a"),
        step("Replication/StreamWal", {"after_lsn": "$a", "slot": b"f1"}, {"session": "$old", "...": True},
             until=["", 1], keep="old"),
        step("Replication/Confirm", {"session": "$old", "durable_lsn": "$a"}, {"committed_lsn": str(2**64 - 1)}),
        step("Admin/Status", {}, {
            "replicas": ["...", {"slot": b"f1", "connected": True, "confirmed_lsn": "$a", "peer": ANY}], "...": True}),
        step("Replication/StreamWal", {"after_lsn": "$a", "slot": b"f1"}, {"session": "$new", "...": True},
             until=["", 1], keep="new"),
        refused("Replication/Confirm", {"session": "$old", "durable_lsn": "$a"}, "FAILED_PRECONDITION",
                "SESSION_UNKNOWN"),
        step("Replication/Confirm", {"session": "$new", "durable_lsn": "$a"}, {"committed_lsn": ANY})],
    "names of slots": [
        invalid("Replication/StreamWal", {"slot": b"archive"}, "BAD_SLOT"),
        invalid("Replication/StreamWal", {"slot": b"a b"}, "BAD_SLOT"),
        invalid("Replication/TakeSnapshot", {"slot": b"a/b"}, "BAD_SLOT")],
    "a session that is over": [
        refused("Replication/Confirm", {"session": "1", "durable_lsn": "1"}, "FAILED_PRECONDITION", "SESSION_UNKNOWN")],
    "the store as files": [
        put(b"k", b"v", "$a"),
        step("Replication/TakeSnapshot", {"lease_ms": "60000"},
             {"lsn": "$a", "files": ["...", {"name": b"MANIFEST", "size": "$size", "checksum": ANY}], "id": "$id",
              "expires_unix_ms": ANY, "database_id": ANY}),
        step("Replication/FetchFile", {"snapshot_id": "$id", "name": b"MANIFEST"}, {"data": ANY}),
        step("Replication/FetchFile", {"snapshot_id": "$id", "name": b"MANIFEST", "offset": "$size"}, {}),
        *[invalid("Replication/FetchFile", {"snapshot_id": "$id", "name": b"MANIFEST", **more}, "BAD_RANGE")
          for more in ({"offset": "$size+1"}, {"offset": "$size", "length": "1"}, {"length": "$size+1"})],
        *[refused("Replication/FetchFile", {"snapshot_id": "$id", "name": name}, "NOT_FOUND", "FILE_UNKNOWN")
          for name in (b"", b"LOCK", b"../MANIFEST")],
        step("Replication/ReleaseSnapshot", {"snapshot_id": "$id"}, {}),
        step("Replication/ReleaseSnapshot", {"snapshot_id": "$id"}, {}),
        refused("Replication/FetchFile", {"snapshot_id": "$id", "name": b"MANIFEST"}, "NOT_FOUND", "SNAPSHOT_UNKNOWN")],
}

# ---- Admin ----

ADMIN = {
    "status": [
        put(b"k", b"v", "$a"),
        step("Admin/Status", {}, {"version": ANY, "role": "primary", "serving": True, "last_lsn": "$a",
                                  "durable_lsn": "$a", "io_backend": ANY, "...": True})],
    "stats": [step("Admin/Stats", {}, {"stats": ["...", {"name": "memory_bytes", "value": ANY}]}),
              *[step("Admin/Stats", {}, {"stats": ["...", {"name": name, "...": True}]})
                for name in ("retry_memory_bytes", "retried_writes", "rpc_leases", "rpc_exports")]],
    "dashboard": [step("Admin/Dashboard", {}, {"json": ANY})],
    "flush and compact": [
        put(b"k", b"v", "$a"), step("Admin/Flush", {}, {"flushed_lsn": "$a"}), step("Admin/Compact", {}, {}),
        step("Admin/Status", {}, {"flushed_lsn": "$a", "...": True}), get(b"k", found(b"v", "$a"))],
    "safe compaction LSN": [
        step("Admin/SetSafeCompactionLsn", {"lsn": "5"}, {}),
        step("Admin/Status", {}, {"safe_compaction_lsn": "5", "...": True}),
        step("Admin/SetSafeCompactionLsn", {}, {})],
    "verify": [
        put(b"k"), step("Admin/Flush", {}, {"flushed_lsn": ANY}),
        step("Admin/Verify", {}, {"file_count": ANY, "block_count": ANY, "bytes": ANY})],
    "a rate limit": [
        step("Admin/SetRateLimit", {"user": b"default", "writes_per_second": "1", "write_burst": "1"}, {}),
        put(b"k"), refused("KV/Put", {"key": b"k"}, "RESOURCE_EXHAUSTED", "RATE_LIMITED", retry=True),
        get(b"k", found(b"v")),
        step("Admin/SetRateLimit", {"user": b"default", "reads_per_second": "1", "read_burst": "1"}, {}),
        put(b"k"), put(b"k"),
        get(b"k", found(b"v")), refused("KV/Get", {"key": b"k"}, "RESOURCE_EXHAUSTED", "RATE_LIMITED", retry=True),
        step("Admin/SetRateLimit", {"user": b"default"}, {}), get(b"k", found(b"v")), get(b"k", found(b"v"))],
    "a reload forgets rate limits": [
        step("Admin/SetRateLimit", {"user": b"default", "writes_per_second": "1", "write_burst": "1"}, {}),
        step("Admin/Reload", {}, {}), put(b"k"), put(b"k"), put(b"k")],
    "a bad rate limit": [invalid("Admin/SetRateLimit", {"reads_per_second": "1"}, "BAD_RATE_LIMIT")],
    "backups": [
        put(b"k", b"v", "$a"),
        step("Admin/Backup", {"name": b"full"},
             {"lsn": "$a", "file_count": ANY, "bytes": ANY, "copied_bytes": ANY}),
        step("Admin/Backup", {"name": b"next", "incremental": b"full"},
             {"lsn": "$a", "file_count": ANY, "bytes": ANY, "...": True}),
        refused("Admin/Backup", {"name": b"full"}, "ALREADY_EXISTS", "EXISTS"),
        invalid("Admin/Backup", {}, "BAD_BACKUP_NAME"), invalid("Admin/Backup", {"name": b"../up"}, "BAD_BACKUP_NAME"),
        refused("Admin/Backup", {"name": b"other", "incremental": b"none"}, "NOT_FOUND", "NO_SUCH_BACKUP")],
    "a primary is not promoted": [refused("Admin/Promote", {}, "FAILED_PRECONDITION", "ALREADY_PRIMARY")],
}

# ---- health, reflection ----

HEALTH = {
    "health": [
        *[step("grpc.health.v1.Health/Check", {"service": name}, {"status": "SERVING"})
          for name in ("", "varve.v1.KV", "varve.v1.Watch", "varve.v1.Snapshots", "varve.v1.Replication", "varve.v1.Admin")],
        refused("grpc.health.v1.Health/Check", {"service": "no.Such"}, "NOT_FOUND", "UNKNOWN_SERVICE"),
        step("grpc.health.v1.Health/Watch", {"service": "varve.v1.KV"}, {"status": "SERVING"}, until=["", 1]),
        step("grpc.health.v1.Health/Watch", {"service": "no.Such"}, {"status": "SERVICE_UNKNOWN"}, until=["", 1])],
    **{f"reflection {version}": [step(
        f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        requests=[{"list_services": ""}],
        each=[{"original_request": {"list_services": ""}, "list_services_response": {"service": [
            "...", *[{"name": name} for name in (
                "varve.v1.KV", "varve.v1.Watch", "varve.v1.Snapshots", "varve.v1.Replication", "varve.v1.Admin",
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")]]}}]),
        *[step(f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
               requests=[{"file_containing_symbol": name}],
               each=[{"original_request": ANY, "file_descriptor_response": {"file_descriptor_proto": ["..."]}}])
          for name in ("varve.v1.KV.Put", "varve.v1.Watch", "varve.v1.Entry", "grpc.health.v1.Health")],
        step(f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
             requests=[{"file_by_filename": "no/such.proto"}],
             each=[{"original_request": ANY,
                    "error_response": {"error_code": CODES["NOT_FOUND"], "error_message": ANY}}])]
       for version in ("v1", "v1alpha")},
}

# ---- who may ----

TOKENS = {name: f"conformance-{name}-{'0123456789abcdef' * 2}" for name in ("reader", "writer", "admin", "replica")}


def as_user(name):
    return {"metadata": {"authorization": f"Bearer {TOKENS.get(name, name)}"}}


# A call of each right.
READS = [("KV/Get", {"key": b"k"}), ("KV/MultiGet", {"keys": [b"k"]}), ("KV/Scan", {"limit": "1"})]
WRITES = [("KV/Put", {"key": b"k"}), ("KV/Delete", {"key": b"k"}), ("KV/Write", {"ops": [{"put": {"key": b"k"}}]})]
ADMINS = [("Admin/Status", {}), ("Admin/Flush", {}), ("Admin/SetRateLimit", {"user": b"u"}),
          ("Admin/Reload", {}), ("Admin/Dashboard", {})]
REPLICAS = [("Replication/Hello", {}), ("Replication/StreamWal", {"until_end": True}), ("Replication/TakeSnapshot", {})]

ACCESS = {
    "no token": [refused(*call, "UNAUTHENTICATED", "CREDENTIALS_MISSING")
                 for call in READS + WRITES + ADMINS + REPLICAS],
    "a forged token": [refused(*call, "UNAUTHENTICATED", "TOKEN_INVALID", **as_user(token))
                       for call in READS + WRITES + ADMINS + REPLICAS
                       for token in ("forged", TOKENS["admin"] + "x", TOKENS["admin"][:-1])],
    "a reader": [*[step(*call, {"...": True}, **as_user("reader")) for call in READS],
                 *[refused(*call, "PERMISSION_DENIED", "ROLE_MISSING", **as_user("reader"))
                   for call in WRITES + ADMINS + REPLICAS]],
    "a writer": [*[step(*call, {"...": True}, **as_user("writer")) for call in WRITES],
                 *[refused(*call, "PERMISSION_DENIED", "ROLE_MISSING", **as_user("writer"))
                   for call in READS + ADMINS + REPLICAS]],
    "an administrator": [*[step(*call, {"...": True}, **as_user("admin")) for call in ADMINS],
                         *[refused(*call, "PERMISSION_DENIED", "ROLE_MISSING", **as_user("admin"))
                           for call in READS + WRITES + REPLICAS]],
    "a replica": [*[step(*call, {"...": True}, **as_user("replica")) for call in REPLICAS],
                  *[refused(*call, "PERMISSION_DENIED", "ROLE_MISSING", **as_user("replica"))
                    for call in READS + WRITES + ADMINS]],
    "a pipeline of a reader": [step(
        "KV/Pipeline", requests=ops({"get": {"key": b"k"}}, {"put": {"key": b"k"}}), **as_user("reader"),
        each=[answer(1, get=ANY), answer(2, error=status("PERMISSION_DENIED", "ROLE_MISSING"))])],
    "health needs no token": [step("grpc.health.v1.Health/Check", {}, {"status": "SERVING"})],
}

# ---- too often, too much at once ----

LIMITED = {
    "calls beyond the rate": [
        # Tried again, since on a slow machine a second may pass between two calls.
        put(b"k"),
        *[refused(*call, "RESOURCE_EXHAUSTED", "RATE_LIMITED", retry=True, again_ms=10000) for call in WRITES],
        get(b"k", ANY),
        *[refused(*call, "RESOURCE_EXHAUSTED", "RATE_LIMITED", retry=True, again_ms=10000) for call in READS]],
}
NARROW = {
    "streams beyond what there is room for": [
        step("KV/Pipeline", requests=ops({"get": {"key": b"k"}}), until=["", 1], keep="p", expect=answer(1, get={})),
        step("KV/Pipeline", requests=[], error=status("RESOURCE_EXHAUSTED", "OVERLOADED", retry=True)),
        {"on": "p", "requests": [], "each": []},
        step("KV/Pipeline", requests=[], each=[], again_ms=10000)],
    "snapshots beyond what a user may have": [
        step("Snapshots/Open", {}, {"id": "$id", "...": True}),
        refused("Snapshots/Open", {}, "RESOURCE_EXHAUSTED", "TOO_MANY_SNAPSHOTS", retry=True),
        step("Snapshots/Release", {"id": "$id"}, {}), step("Snapshots/Open", {}, {"id": ANY, "...": True})],
    "snapshots of files beyond what there is room for": [
        step("Replication/TakeSnapshot", {}, {"id": "$id", "...": True}),
        refused("Replication/TakeSnapshot", {}, "RESOURCE_EXHAUSTED", "TOO_MANY_SNAPSHOTS", retry=True),
        step("Replication/ReleaseSnapshot", {"snapshot_id": "$id"}, {}),
        step("Replication/TakeSnapshot", {}, {"id": ANY, "...": True})],
    "a message of too many operations": [step(
        "KV/Pipeline", requests=[{"id": "1", "more": [{}] * 65536}],
        error=status("INVALID_ARGUMENT", "TOO_MANY_OPS"))],
    "no directory for backups": [
        refused("Admin/Backup", {"name": b"full"}, "FAILED_PRECONDITION", "BACKUP_DIR_NOT_SET")],
}
BRIEF = {
    "a page token that is too old": [
        fill(b"s", 10), scan({"prefix": b"s", "limit": "4"}, S[:4], page_token="$t"),
        refused("KV/Scan", {"prefix": b"s", "page_token": "$t"}, "NOT_FOUND", "PAGE_TOKEN_EXPIRED", again_ms=10000)],
}

# A log of segments of 256 KiB, which go once they are flushed.
TRIMMED = {
    "an LSN that is no longer in the log": [
        put(b"first"),
        *[put(b"large", b"x" * (200 << 10)), step("Admin/Flush", {}, {"flushed_lsn": ANY})] * 5,
        step("Watch/Watch", {"from_lsn": "1"},
             error=status("OUT_OF_RANGE", "LSN_TRIMMED", resume_lsn="1", oldest_lsn="$oldest"),
             deadline_ms=500, again_ms=10000),
        step("Replication/StreamWal", {}, error=status("OUT_OF_RANGE", "LSN_TRIMMED", oldest_lsn="$oldest")),
        # What is there can be had from the LSN that was told.
        watch({"from_lsn": "$oldest"}, 1, {"events": ["..."], "lsn": ANY})],
}

# ---- a damaged block ----

# 500 keys of 200 bytes are some 25 blocks, of which one in the middle is damaged.
LOST = status("DATA_LOSS", "CHECKSUM", first_key="$first", last_key="$last")
DAMAGED = {
    "damage costs what it has struck and no more": [
        get(b"d0000", found(b"v" * 200)), step("KV/Get", {"key": b"d0250"}, error=LOST),
        get(b"d0499", found(b"v" * 200)),
        step("KV/MultiGet", {"keys": [b"d0000", b"d0250"]}, error=LOST),
        step("KV/Scan", {"prefix": b"d", "keys_only": True}, error=LOST),
        scan({"prefix": b"d000"}, [entry(b"d%04d" % i, b"v" * 200) for i in range(10)]),
        step("KV/Pipeline", requests=ops({"get": {"key": b"d0250"}}, {"get": {"key": b"d0499"}}),
             each=[answer(1, error=LOST), answer(2, get=found(b"v" * 200))]),
        step("Admin/Verify", {}, {"damage_count": "1", "damages": [
            {"file": ANY, "offset": ANY, "first_key": ANY, "last_key": ANY, "message": ANY}], "...": True}),
        put(b"d0250", b"new"), get(b"d0250", found(b"new")),
        step("grpc.health.v1.Health/Check", {}, {"status": "SERVING"})],
}


def damage(data):
    """Flip one bit in the block of the table that has d0250."""
    [table] = data.rglob("*.sst")
    content = bytearray(table.read_bytes())
    content[content.index(b"d0250")] ^= 1
    table.write_bytes(content)


# ---- a follower, whose primary is not there ----

NOT_PRIMARY = status("FAILED_PRECONDITION", "NOT_PRIMARY")
FOLLOWER = {
    "a follower takes no writes": [
        *[step(*call, error=NOT_PRIMARY) for call in WRITES], get(b"k", found(b"v")),
        step("KV/Pipeline", requests=ops({"put": {"key": b"k"}}, {"delete": {"key": b"k"}}, {"get": {"key": b"k"}}),
             each=[answer(1, error=NOT_PRIMARY), answer(2, error=NOT_PRIMARY), answer(3, get=found(b"v"))])],
    "a follower answers reads": [
        get(b"k", found(b"v", "$a")), get(b"k", found(b"v"), min_lsn="$a"), scan({}, [entry(b"k")]),
        step("KV/MultiGet", {"keys": [b"k"]}, {"results": [found(b"v")]}),
        step("Replication/Hello", {}, {"role": "follower", "...": True})],
}

# ---- a primary that hears of a newer one, and one whose writes wait for a follower ----

TOO_OLD = status("FAILED_PRECONDITION", "EPOCH_TOO_OLD", epoch="9")
SUPERSEDED = {
    "a primary that hears of a newer one": [
        put(b"k"),
        step("Replication/StreamWal", {"promised_epoch": "9"}, error=TOO_OLD),
        step("Admin/Status", {}, {"role": "superseded", "promised_epoch": "9", "...": True}),
        *[step(*call, error=NOT_PRIMARY) for call in READS + WRITES], step("Replication/StreamWal", {}, error=NOT_PRIMARY),
        step("grpc.health.v1.Health/Check", {}, {"status": "NOT_SERVING"}),
        step("Replication/Hello", {"promise_epoch": "9"}, error=TOO_OLD),
        step("Replication/Hello", {"promise_epoch": "10"}, {"promised_epoch": "10", "role": "superseded", "...": True}),
        step("Admin/Promote", {}, {"epoch": "11"}),
        step("Admin/Status", {}, {"role": "primary", "epoch": "11", "...": True}),
        step("grpc.health.v1.Health/Check", {}, {"status": "SERVING"}),
        put(b"k", b"w"), get(b"k", found(b"w"))],
}
QUORUM = {
    "a write waits for a follower": [
        refused("KV/Put", {"key": b"k", "value": b"v"}, "UNKNOWN", "NOT_CONFIRMED"), get(b"k", MISSING),
        step("Replication/StreamWal", {"slot": b"f1"}, {"session": "$s", "...": True}, until=["", 1], keep="f"),
        step("Replication/Confirm", {"session": "$s", "durable_lsn": "1"}, {"...": True}),
        step("KV/Get", {"key": b"k"}, found(b"v"), again_ms=10000)],
    "a promotion that knows of too few": [
        step("Replication/StreamWal", {"promised_epoch": "9"}, error=TOO_OLD),
        refused("Admin/Promote", {}, "FAILED_PRECONDITION", "TOO_FEW_PEERS"),
        step("Admin/Promote", {"force": True}, {"epoch": "10"})],
}

# ---- writes that nobody confirms ----

NOT_CONFIRMED = status("UNKNOWN", "NOT_CONFIRMED")
UNCONFIRMED = {
    "a write that no replica confirms": [
        *[step(*call, error=NOT_CONFIRMED) for call in WRITES], get(b"k", MISSING),
        step("KV/Pipeline", requests=ops({"put": {"key": b"k"}}), each=[answer(1, error=NOT_CONFIRMED)]),
        get(b"k", MISSING)],
}

# What stands in the store before, and what then happens to its files.
PREPARE = {"damaged": ({b"d%04d" % i: b"v" * 200 for i in range(500)}, damage),
           "follower": ({b"k": b"v"}, lambda data: None)}

# Reasons that clients meet, but not by what they do or not each time; and where they are tested.
ELSEWHERE = {
    "ALREADY_RUNNING": "tests/rpc/test_admin.c",
    "BAD_CONFIGURATION": "test_reload.py",
    "CANCELLED": "nobody sees it, since who has cancelled does not wait",
    "CERTIFICATE_NAME_INVALID": "tests/rpc/test_tls.c",
    "DEADLINE_EXCEEDED": "a client has its own words for it",
    "NOT_CAUGHT_UP": "tests/rpc/test_kv_replica.c",
    "NOT_NEWEST": "tests/rpc/test_promote.c",
    "NO_MEMORY": "tests/rpc",
    "NO_SPACE": "tests/engine/test_db_no_space.c",
    "SHUTTING_DOWN": "test_service.py",
    "TOO_MANY_REPLICAS": "tests/rpc/test_export_service.c",
    "TOO_MANY_USERS": "tests/rpc/test_rate_limit.c",
    "WAL_FAILED": "tests/rpc/test_server.c",
    "WRITE_STALL": "tests/rpc/test_status_map.c",
    "SCAN_IDLE": "tests/rpc/test_scan.c",
}

# ---- the servers that they need: flags, files (None: a directory), cases ----

SMALL = [f"--MAX_VALUE_SIZE={MAX_VALUE}", "--MAX_BATCH_SIZE=1MiB"]
SETUPS = {
    "open": ([*SMALL, "--BACKUP_DIR={backups}"], {"backups": None}, {**KV, **RETRIES, **SCAN, **PIPELINE, **WATCH, **SNAPSHOTS, **MIN_LSN, **REPLICATION, **ADMIN, **HEALTH}),
    "secured": (["--TOKENS_FILE={tokens}"],
                {"tokens": "".join(f"{name} sha256:{hashlib.sha256(token.encode()).hexdigest()} {right}\n" for
                                   (name, token), right in zip(TOKENS.items(), ("read", "write", "admin", "replica")))},
                ACCESS),
    "limited": ([f"--RATE_LIMIT_{what}=1" for what in ("READS", "WRITES")], {}, LIMITED),
    "trimmed": (["--WAL_SEGMENT_SIZE=256KiB"], {}, TRIMMED),
    "damaged": ([], {}, DAMAGED),
    "follower": (["--FOLLOW=127.0.0.1:9"], {}, FOLLOWER),
    "unconfirmed": (["--QUORUM=1", "--QUORUM_TIMEOUT=100ms"], {}, UNCONFIRMED),
    "narrow": (["--RPC_MAX_STREAMS=1", "--SNAPSHOTS_PER_USER=1", "--EXPORTS_MAX=1"], {}, NARROW),
    "superseded": ([], {}, SUPERSEDED),
    "quorum": (["--QUORUM=1", "--QUORUM_TIMEOUT=200ms"], {}, QUORUM),
    "brief": (["--PAGE_TOKEN_LEASE=1ms"], {}, BRIEF),
}


def document(cases):
    """What a client reads: as JSON, bytes in base64."""

    def plain(value):
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    return [{"name": name, "steps": plain(steps)} for name, steps in cases.items()]
