"""
Is a history of calls linearizable? That is: is there one order of all of them, in which each stands somewhere between its
call and its return, and every answer is right?

    linearizable.py HISTORY...          # check files that a failed test has kept

A history is JSON, a line for each operation, in any order:

    {"object": "r1/g7", "client": 12, "kind": "write", "call": NS, "return": NS or null,
     "is": {KEY: VALUE}, "not": {KEY: VALUE}, "set": {KEY: VALUE}, "lsn": LSN, "seen": {KEY: LSN}}

Every operation is one step of one object, a handful of keys that are written together: it may stand where the keys of "is"
have these values and those of "not" haven't, and then those of "set" get theirs. null is absent; at first all are. So a read
is an "is", a write a "set", a conditional write that was applied is both, and a batch or a scan has several keys. Objects are
independent of each other, so a history is linearizable if that of each object is (Herlihy and Wing, 1990). One without a
return, since nobody knows what became of it, may stand anywhere behind its call, or nowhere. "lsn" (of the last key of "set")
and "seen" are what the server said, and are not needed here.

check() is the search of Wing and Gong (1993) with the memory of Lowe (2017), as in Porcupine, which is asked as well where
there is Go (linearizability/main.go): go through calls in order of time; what may stand next is taken out, and the search
begins anew behind it; at the first return of what was not taken out it goes back. Who has taken out the same set and
come to the same state before needs no second look. Every value is written once, so that a read allows few writers, and
the search of a good history hardly goes back.
"""

import json
import sys
from collections import defaultdict

# A good history takes few more steps than it has operations. One that takes so many counts as bad, undecided as it is; its
# words still say where it came to an end.
STEPS_MAX = 200_000


def load(paths):
    return [json.loads(line) for path in paths for line in open(path)]


def save(path, history):
    with open(path, "w") as file:
        for op in history:
            file.write(json.dumps(op) + "\n")


def by_object(history):
    objects = defaultdict(list)
    for op in history:
        objects[op["object"]].append(op)
    return objects


def effect(op, index):
    """As lists of (index of the key, value), for step()."""
    return [[(index[key], value) for key, value in op.get(part, {}).items()] for part in ("is", "not", "set")]


def step(state, must, must_not, sets):
    """The state behind an operation; None if it can't stand here."""
    for key, value in must:
        if state[key] != value:
            return None
    for key, value in must_not:
        if state[key] == value:
            return None
    if sets:
        after = list(state)
        for key, value in sets:
            after[key] = value
        return tuple(after)
    return state


class Search:
    """Of the operations of one object. `ok`: True, False, or None when it was given up."""

    def __init__(self, ops, steps_max=STEPS_MAX):
        self.ops = sorted(ops, key=lambda op: op["call"])
        index = {key: i for i, key in enumerate(sorted({key for op in ops for part in ("is", "not", "set")
                                                        for key in op.get(part, {})}))}
        self.keys = list(index)
        self.effects = [effect(op, index) for op in self.ops]
        self.steps_max = steps_max
        self.ok = self._run()

    def _link(self):
        """Calls and returns in order of time, in a list with links: entry 2i + 1 is the call of operation i, 2i + 2 its
        return, 0 both ends. At the same time calls come first: the intervals meet."""
        events = [(op["call"], 0, 2 * i + 1) for i, op in enumerate(self.ops)]
        events += [(op["return"], 1, 2 * i + 2) for i, op in enumerate(self.ops) if op["return"] is not None]
        order = [0] + [entry for _, _, entry in sorted(events)]
        self.next, self.prev = [0] * (2 * len(self.ops) + 1), [0] * (2 * len(self.ops) + 1)
        for here, there in zip(order, order[1:] + [0]):
            self.next[here], self.prev[there] = there, here

    def _entries(self, i):
        return (2 * i + 1,) if self.ops[i]["return"] is None else (2 * i + 1, 2 * i + 2)

    def _take_out(self, i):
        for entry in self._entries(i):
            self.next[self.prev[entry]], self.prev[self.next[entry]] = self.next[entry], self.prev[entry]

    def _put_back(self, i):
        for entry in reversed(self._entries(i)):
            self.next[self.prev[entry]] = self.prev[self.next[entry]] = entry

    def _run(self):
        self._link()
        state, taken, stack, known, steps = (None,) * len(self.keys), 0, [], set(), 0
        left = sum(op["return"] is not None for op in self.ops)
        self.best = (-1, 0, state, [])  # how many were taken out, the return in the way, the state there, the order
        entry = self.next[0]
        while left:
            if entry % 2:
                i = entry // 2
                after = step(state, *self.effects[i])
                if after is not None and (taken | 1 << i, after) not in known:
                    steps += 1
                    if steps > self.steps_max:
                        return None
                    known.add((taken | 1 << i, after))
                    stack.append((i, state))
                    state, taken = after, taken | 1 << i
                    left -= self.ops[i]["return"] is not None
                    self._take_out(i)
                    entry = self.next[0]
                else:
                    entry = self.next[entry]
                continue
            # A return, or the end: what must stand before it has not been taken out.
            if entry and len(stack) > self.best[0]:
                self.best = (len(stack), entry // 2 - 1, state, [i for i, _ in stack[-6:]])
            if not stack:
                return False
            i, state = stack.pop()
            taken ^= 1 << i
            left += self.ops[i]["return"] is not None
            self._put_back(i)
            entry = self.next[2 * i + 1]
        return True

    def words(self):
        """Where the search came furthest."""
        count, stuck, state, order = self.best
        lines = [f"{self.ops[0]['object']}: {'not linearizable' if self.ok is False else 'undecided'}: {count} of "
                 f"{len(self.ops)} operations can be put in order, ending with"]
        lines += [f"    {describe(self.ops[i])}" for i in order]
        lines += [f"  which leads to {dict(zip(self.keys, state))}, where this can't stand:",
                  f"    {describe(self.ops[stuck])}"]
        return "\n".join(lines)


def describe(op):
    parts = [f"{part} {op[part]}" for part in ("is", "not", "set") if op.get(part)]
    until = "?" if op["return"] is None else f"{op['return'] / 1e6:.3f}"
    return f"{op['call'] / 1e6:.3f} .. {until} ms  client {op['client']} {op['kind']}: {', '.join(parts)}" + \
           (f"  LSN {op['lsn']}" if op.get("lsn") else "")


def check(history, steps_max=STEPS_MAX):
    """Complaints, one for each object that is not linearizable; and how many were looked at."""
    objects = by_object(reduced(history))
    searches = [Search(ops, steps_max) for ops in objects.values()]
    return [s.words() for s in searches if not s.ok], len(objects)


def lsn_values(history):
    """(object, key, LSN) -> the value that was written there, as far as anybody was told."""
    values = {}
    for op in history:
        for key, lsn in op.get("seen", {}).items():
            values[op["object"], key, lsn] = op["is"][key]
        for key, lsn in write_lsns(op).items():
            values[op["object"], key, lsn] = op["set"][key]
    return values


def write_lsns(op):
    """Of each key that was set; nothing if the write's LSN is not known."""
    if not op.get("lsn"):
        return {}
    first = op["lsn"] - len(op["set"]) + 1
    return {key: first + i for i, key in enumerate(op["set"])}


def reduced(history):
    """
    The same question with fewer ways to answer it. A condition that failed comes with the LSN of what was there: if
    somebody knows what that LSN wrote, "not" becomes "is". And a write of which nobody heard, neither who wrote nor who
    read, may be left out: without it every answer is as right as with it.
    """
    values = lsn_values(history)
    out, heard = [], set()
    for op in history:
        op = {**op, "is": dict(op.get("is", {})), "not": dict(op.get("not", {}))}
        for key in list(op["not"]):
            lsn = op.get("current", {}).get(key)
            if lsn == 0 or (op["object"], key, lsn) in values:
                op["is"][key] = None if lsn == 0 else values[op["object"], key, lsn]
                if op["is"][key] != op["not"][key]:  # else it has to fail
                    del op["not"][key]
        heard.update((op["object"], key, value) for key, value in op["is"].items())
        heard.update((op["object"], key) for key in op["not"])
        out.append(op)
    return [op for op in out if op["return"] is not None or any(
        value is None or (op["object"], key, value) in heard or (op["object"], key) in heard
        for key, value in op.get("set", {}).items())]


# ---- what the server says about itself: LSNs ----


def lsn_complaints(history):
    """An LSN has one writer, a value has one LSN, and the LSNs of writes follow each other in time."""
    complaints, lsn_of, value_of, writes = [], {}, {}, []

    def note(name, lsn):
        if lsn_of.setdefault(name, lsn) != lsn:
            complaints.append(f"{name} has LSN {lsn_of[name]} and LSN {lsn}")
        if value_of.setdefault(lsn, name) != name:
            complaints.append(f"LSN {lsn} has {value_of[lsn]} and {name}")

    for op in history:
        for key, lsn in op.get("seen", {}).items():
            note((op["object"], key, op["is"][key]), lsn)
        lsns = write_lsns(op)
        for key, lsn in lsns.items():
            if op["set"][key] is not None:  # what is removed has no name of its own
                note((op["object"], key, op["set"][key]), lsn)
        if lsns and op["return"] is not None:
            writes.append((op["call"], op["return"], min(lsns.values()), max(lsns.values()), op))
    # Who was called behind another's return has a higher LSN: the highest LSN of all that had returned is enough.
    highest, returned = (0, None), sorted(writes, key=lambda w: w[1])
    at = 0
    for call, _, first, _, op in sorted(writes, key=lambda w: w[0]):
        while returned[at][1] < call:
            highest = max(highest, (returned[at][3], returned[at][4]["call"]))
            at += 1
        if first <= highest[0]:
            complaints.append(f"LSN {highest[0]} had been answered before this was called: {describe(op)}")
    return list(dict.fromkeys(complaints))


def prefix_complaints(history, found, last_lsn, sync_lsn):
    """
    Asynchronous writes before a crash: is what came back (found: object -> key -> (value, LSN), or nothing; up to last_lsn)
    what had been written up to some LSN, and nothing behind it? sync_lsn is the highest that was acknowledged as durable.
    """
    complaints = []
    if last_lsn < sync_lsn:
        complaints.append(f"LSN {sync_lsn} was acknowledged as durable, but {last_lsn} is the last one")
    newest, unsure = {}, defaultdict(set)
    for op in history:
        lsns = write_lsns(op)
        for key, value in op.get("set", {}).items():
            name = (op["object"], key)
            if key not in lsns:
                unsure[name].add(value)
            elif lsns[key] <= last_lsn and lsns[key] >= newest.get(name, (None, 0))[1]:
                newest[name] = (value, lsns[key])
    for name in {*newest, *unsure, *((o, key) for o, keys in found.items() for key in keys)}:
        value, lsn = found.get(name[0], {}).get(name[1], (None, 0))
        expected, least = newest.get(name, (None, 0))
        if lsn > last_lsn:
            complaints.append(f"{name} has LSN {lsn}, behind the last, {last_lsn}")
        if (value == expected and (lsn == least or value is None)) or \
                (value in unsure[name] and (lsn > least or value is None)):
            continue
        complaints.append(f"{name} is {value} by LSN {lsn}; up to LSN {last_lsn} it was {expected} by LSN {least}")
    return complaints


def main(paths):
    history = load(paths)
    complaints, count = check(history)
    complaints += lsn_complaints(history)
    print("\n".join([*complaints, f"{len(history)} operations, {count} objects, {len(complaints)} complaints"]))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
