"""
The checkers themselves: histories that are known to be bad, and many made up ones, on which linearizable.py and Porcupine
have to agree. VARVE_TEST_SEED replays these.
"""

import random
import unittest

import linearizable
import porcupine
import varved

HISTORIES = 600
KEYS = "abc"


class Story:
    """A history by hand: each operation is written with its time, call and return."""

    def __init__(self):
        self.ops = []

    def __call__(self, call, end, **parts):
        op = {"object": "o", "client": len(self.ops), "kind": "op", "call": call, "return": end, **parts}
        self.ops.append(op)
        return self


def story(*ops):
    out = Story()
    for call, end, parts in ops:
        out(call, end, **parts)
    return out.ops


def put(call, end, value, key="a", **more):
    return call, end, {"set": {key: value}, **more}


def delete(call, end, key="a"):
    return call, end, {"set": {key: None}}


def get(call, end, value, key="a", **more):
    return call, end, {"is": {key: value}, **more}


GOOD = {
    "nothing": story(get(1, 2, None)),
    "read of what is being written": story(put(1, 10, "v"), get(2, 3, None), get(4, 5, "v"), get(11, 12, "v")),
    "an open write that was applied late": story(put(1, None, "v"), get(2, 3, None), put(4, 5, "w"), get(6, 7, "v")),
    "an open write that never was": story(put(1, None, "v"), get(2, 3, None), get(20, 21, None)),
    "an open delete": story(put(1, 2, "v"), delete(3, None), get(4, 5, "v"), get(6, 7, None)),
    "a condition that failed": story(put(1, 2, "v"), (3, 4, {"not": {"a": "w"}})),
    "an open conditional write that can't have been": story(put(1, 2, "v"), (3, None, {"is": {"a": "w"}, "set": {"a": "x"}}),
                                                            get(4, 5, "v"), get(6, 7, "v")),
    "calls that meet": story(put(1, 2, "v"), get(2, 2, None), get(2, 3, "v")),
}

BAD = {
    "stale read": story(put(1, 2, "v"), put(3, 4, "w"), get(5, 6, "v")),
    "stale read beside the write": story(put(1, 2, "v"), put(3, 10, "w"), get(4, 5, "w"), get(6, 7, "v")),
    "lost write": story(put(1, 2, "v"), get(3, 4, None)),
    "lost open write that was seen": story(put(1, None, "v"), get(2, 3, "v"), get(4, 5, None)),
    "resurrected delete": story(put(1, 2, "v"), delete(3, 4), get(5, 6, None), get(7, 8, "v")),
    "a value from nowhere": story(put(1, 2, "v"), get(3, 4, "u")),
    "a value before it was written": story(get(1, 2, "v"), put(3, 4, "v")),
    "a write applied twice": story(put(1, 2, "v"), put(3, 4, "w"), get(5, 6, "w"), get(7, 8, "v")),
    "split batch": story((1, 2, {"set": {"a": "v", "b": "v"}}), (3, 4, {"set": {"a": "w", "b": "w"}}),
                         (5, 6, {"is": {"a": "w", "b": "v"}})),
    "split open batch": story((1, None, {"set": {"a": "v", "b": "v"}}), (2, 3, {"is": {"a": "v", "b": None}}),
                              (4, 5, {"is": {"a": "v", "b": None}})),
    "a batch that is seen key by key, backwards": story((1, 9, {"set": {"a": "v", "b": "v"}}), get(2, 3, "v"),
                                                        get(4, 5, None, key="b")),
    "two of which only one can be first": story((1, 5, {"is": {"a": None}, "set": {"a": "v"}}),
                                                (2, 6, {"is": {"a": None}, "set": {"a": "w"}})),
    "a condition that held and was said to fail": story(put(1, 2, "v"), (3, 4, {"not": {"a": "v"}})),
}


def made_up(rng, name, count):
    """
    What clients of a server may have seen that does each operation at one moment; and, half of the time, one answer of it
    changed to an earlier one.
    """
    state, ops, values = dict.fromkeys(KEYS), [], []
    free = [0] * rng.randint(2, 6)
    for n in sorted(rng.sample(range(count * 20), count)):  # the moments
        client = rng.randrange(len(free))
        call = rng.randint(min(free[client], n), n) if rng.random() < 0.9 else n
        end = n + rng.randint(1, 60)
        open_ = rng.random() < 0.06
        op = {"object": name, "client": client, "kind": "op", "call": call, "return": None if open_ else end}
        done = not open_ or rng.random() < 0.5
        dice = rng.random()
        keys = rng.sample(KEYS, rng.choice([1, 1, 2, 3]))
        new = {key: f"{n}{key}" if rng.random() < 0.8 else None for key in keys}
        if dice < 0.45:
            if open_:
                continue
            op["is"] = {key: state[key] for key in keys}
            values.append(op)
        elif dice < 0.8:
            op["set"] = new
            if done:
                state.update(new)
        else:
            key = rng.choice(KEYS)
            guess = state[key] if rng.random() < 0.6 else rng.choice([None, f"{rng.randrange(n + 1)}{key}"])
            if open_ or guess == state[key]:
                op["is"], op["set"] = {key: guess}, new
                if done and guess == state[key]:
                    state.update(new)
            else:
                op["not"] = {key: guess}
        free[client] = end
        ops.append(op)
    if values and rng.random() < 0.5:
        op = rng.choice(values)
        key = rng.choice(list(op["is"]))
        op["is"][key] = rng.choice(["nothing", None] + [o["set"][key] for o in ops if key in o.get("set", {})])
    return ops


class Checkers(unittest.TestCase):
    def test_known_histories(self):
        for kind, stories in (("good", GOOD), ("bad", BAD)):
            for name, history in stories.items():
                complaints, count = linearizable.check(history)
                self.assertEqual((bool(complaints), count), (kind == "bad", 1), f"{name}: {complaints}")

    def test_a_complaint_names_the_operation(self):
        words = linearizable.check(BAD["stale read"])[0][0]
        self.assertIn("2 of 3 operations", words)
        self.assertIn("client 2 op: is {'a': 'v'}", words)

    def test_a_search_that_takes_too_long_is_no_proof(self):
        history = [op for n in range(9) for op in story(put(1, 90, f"{n}"))] + story(get(95, 96, "0"), get(97, 98, "1"))
        complaints, _ = linearizable.check(history, steps_max=50)
        self.assertIn("undecided", complaints[0])
        self.assertIn("not linearizable", linearizable.check(history)[0][0])

    def test_both_agree(self):
        """Known histories and made up ones, before and after they are reduced."""
        rng = random.Random(varved.seed())
        histories = [made_up(rng, f"h{n}", rng.randint(3, 40)) for n in range(HISTORIES)]
        for n, history in enumerate([*GOOD.values(), *BAD.values()]):
            histories.append([{**op, "object": f"k{n}"} for op in history])
        said = {}
        for history in histories:
            said[history[0]["object"]] = linearizable.Search(history).ok
            self.assertEqual(not linearizable.check(history)[0], said[history[0]["object"]], history)
        bad = sum(not ok for ok in said.values())
        print(f"{len(said)} histories, {bad} of them bad", flush=True)
        self.assertGreater(bad, 80)
        self.assertGreater(len(said) - bad, 80)
        program = porcupine.binary()
        if not program:
            return
        path = varved.work_dir("linearizable") / "histories"
        linearizable.save(path, [op for history in histories for op in history])
        theirs = {name: word == "Ok" for name, (word, _) in porcupine.check(program, "-", path).items()}
        self.assertEqual(theirs, said)
        print("Porcupine says the same of all", flush=True)


class Lsns(unittest.TestCase):
    def test_lsns(self):
        good = story(put(1, 2, "v", lsn=1), put(3, 9, "w", lsn=3), put(4, 8, "x", lsn=2), get(5, 6, "x", seen={"a": 2}))
        self.assertEqual(linearizable.lsn_complaints(good), [])
        for bad in (story(put(1, 2, "v", lsn=2), put(3, 4, "w", lsn=1)),
                    story(put(1, 2, "v", lsn=1), get(3, 4, "v", seen={"a": 2})),
                    story(put(1, 4, "v", lsn=1), put(1, 4, "w", lsn=1))):
            self.assertEqual(len(linearizable.lsn_complaints(bad)), 1, bad)

    def test_a_failed_condition_is_a_read_where_its_lsn_is_known(self):
        history = story(put(1, 2, "v", lsn=1), put(3, 4, "w", lsn=2), (5, 6, {"not": {"a": "x"}, "current": {"a": 1}}))
        self.assertFalse(linearizable.Search(history).ok is False)
        self.assertEqual(len(linearizable.check(history)[0]), 1, "it saw an old version")


class Prefixes(unittest.TestCase):
    HISTORY = story(put(1, 2, "v", lsn=1), put(3, 4, "w", key="b", lsn=2), put(5, 6, "x", lsn=3), put(7, None, "y", key="b"),
                    delete(8, None, key="c"))

    def complaints(self, found, last_lsn, sync_lsn=0):
        return linearizable.prefix_complaints(self.HISTORY, {"o": found}, last_lsn, sync_lsn)

    def test_prefixes_are_good(self):
        self.assertEqual(self.complaints({}, 0), [])
        self.assertEqual(self.complaints({"a": ("v", 1)}, 1), [])
        self.assertEqual(self.complaints({"a": ("v", 1), "b": ("w", 2)}, 2, 2), [])
        self.assertEqual(self.complaints({"a": ("x", 3), "b": ("w", 2)}, 3), [])
        self.assertEqual(self.complaints({"a": ("x", 3), "b": ("y", 4)}, 5), [])

    def test_what_is_no_prefix_is_not(self):
        for found, last_lsn, sync_lsn in (({"a": ("v", 1)}, 2, 0),  # a hole
                                          ({"a": ("x", 3), "b": ("w", 2)}, 2, 0),  # more than there is
                                          ({"a": ("v", 1), "b": ("w", 2)}, 2, 3),  # too short
                                          ({"a": ("v", 1), "b": ("w", 2), "c": ("z", 2)}, 2, 0)):  # from nowhere
            self.assertTrue(self.complaints(found, last_lsn, sync_lsn), (found, last_lsn))


if __name__ == "__main__":
    unittest.main(verbosity=2)
