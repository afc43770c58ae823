"""What must be in the database: the memory of a client that keeps book of what was acknowledged.

A model is JSON, so that clients in several languages share one:

    {"keys":    {KEY: null | [HASH, LSN]},     acknowledged: this value written by this LSN, or not there
     "unknown": [{KEY: {"old": null | [HASH, LSN], "new": null | HASH}, ...}, ...]}

KEY is base64, HASH the SHA-256 of the value in hexadecimal. Each entry of "unknown" is one write that was
in flight when the server died: all of its keys show the old state or all show the new one, nothing else. Its
keys stand in "keys" with their old state, too.
"""

import json


def load(path):
    with open(path) as file:
        return json.load(file)


def save(path, model):
    with open(path, "w") as file:
        json.dump(model, file)


def settle(model, found):
    """
    Hold what was found in the database ({KEY: null | [HASH, LSN]}, for every key of the model) against the model.
    Returns a list of complaints; the model then says what was found, with nothing unknown left.
    """
    complaints = []
    open_keys = set()
    for group in model["unknown"]:
        open_keys.update(group)
        old = all(found[key] == state["old"] for key, state in group.items())
        new = all((found[key] and found[key][0]) == state["new"] for key, state in group.items())
        if new and not old:
            # One batch, one run of LSNs.
            lsns = sorted(found[key][1] for key in group if found[key])
            if lsns and lsns[-1] - lsns[0] >= len(group):
                complaints.append(f"LSNs {lsns} of one batch are apart")
        elif not old:
            complaints.append(f"a write in flight is there in part or wrong: {group} is "
                              f"{ {key: found[key] for key in group} }")
    for key, state in model["keys"].items():
        if key not in open_keys and found[key] != state:
            complaints.append(f"{key}: acknowledged {state}, found {found[key]}")
    model["keys"] = found
    model["unknown"] = []
    return complaints
