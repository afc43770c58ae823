#!/usr/bin/env python3
"""
failures.py BUILD_DIR - why the tests of the last ctest run failed, in at most forty lines.

The whole output of a failed test stands where it failed, which may be thousands of lines above the end; who reads
the end of a log alone is to see the reason, too. ctest keeps the output of all tests in Testing/Temporary/LastTest.log,
and the names of those that failed beside it.
"""

import re
import sys
from pathlib import Path

LINES_MAX, CHARS_MAX, TESTS_MAX = 40, 180, 12

# What Criterion, unittest, our scripts, the sanitizers and shells say of a failure; and what may be a reason where
# none of these is.
TELLING = re.compile(r"^\[----\] +\S|^\[FAIL\]|^\[ERR|^(FAIL|ERROR|FAILED): |^\w*(Error|Exception)\b|Sanitizer"
                     r"|: runtime error: |Could not spawn")
PERHAPS = re.compile(r"error|fail|assert|timed out|abort", re.I)
# What follows the words above and says nothing.
DULL = re.compile(r"^\[----\] *$|^\[====\]|^Traceback|^FAILED \(")


def sections(log):
    """{name: [(output, what became of it)]} of a LastTest.log."""
    found = {}
    for part in re.split(r"^\d+/\d+ Testing: ", log, flags=re.M)[1:]:
        name, _, rest = part.partition("\n")
        _, _, body = rest.partition("\nOutput:\n")
        output, _, end = body.partition("<end of output>")
        outcome = re.search(r"^Test (?!time)(.*)", end, flags=re.M)
        time = re.search(r"^Test time = *(.*)", end, flags=re.M)
        found.setdefault(name, []).append((output, f"{outcome[1].rstrip('.:') if outcome else 'no end'} after {time[1] if time else '?'}"))
    return found


def reasons(output, room):
    """The first lines that tell, else those that may, else the last of all."""
    lines = [line.rstrip()[:CHARS_MAX] for line in output.splitlines()[1:] if line.strip() and not DULL.search(line)]
    for words in (TELLING, PERHAPS):
        if found := list(dict.fromkeys(line for line in lines if words.search(line))):
            return found[:room]
    return lines[-room:]


def main():
    folder = Path(sys.argv[1]) / "Testing" / "Temporary"
    try:
        failed = [line.split(":", 1)[1] for line in (folder / "LastTestsFailed.log").read_text().splitlines()]
        log = sections((folder / "LastTest.log").read_text(errors="replace"))
    except FileNotFoundError:
        return
    shown = failed[:TESTS_MAX]
    room = max(1, (LINES_MAX - 1) // max(1, len(shown)) - 1)
    if failed:
        print(f"\n{len(failed)} failed; the words of each again:")
    for name in shown:
        runs = [run for run in log.get(name, []) if not run[1].startswith("Passed")] or [("", "did not run")]
        output, outcome = runs[-1]
        print(f"{name}: {outcome}")
        for line in reasons(output, room):
            print(f"    {line}")
    if len(failed) > len(shown):
        print(f"and {', '.join(failed[len(shown):])}"[:CHARS_MAX])


if __name__ == "__main__":
    main()
