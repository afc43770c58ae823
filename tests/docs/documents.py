#!/usr/bin/env python3
"""
What the documents say is tried. Every *.md file of the checkout:

    documents.py links                links to files and to headings lead somewhere
    documents.py run BUILD [FILE...]  the commands work, and print what the document says they do

Blocks that are fenced as `sh` are run, and each command must succeed. Blocks fenced as `console` have commands behind
`$ ` and below each what it prints, stderr too; `...` in a line is any text, and alone on a line any lines. A comment before a
block says what is different about it, where a reader of the source sees it:

    <!-- not run: WHY -->     it needs what a test has not: root, systemd, a registry of packages
    <!-- file: NAME -->       no commands: what a file of this name has
    <!-- run: server -->      each command is a server, which is left running, once it listens, to the next heading (##)

An indented block that looks like commands is a failure without one of these. All blocks of a document are run by one bash,
in one new directory below BUILD, where `varve`, `varved`, build/release/bin and the installed library are those of BUILD. The
network is one of its own, so that documents can name the usual ports; where that may not be made, they have to be free.
"""

import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BLOCK_S = 120
COMMANDS = re.compile(r"^(\$ )?([A-Z_0-9]+=\S* )*(sudo|\./dev|varved?|build/\S+|tests/\S+|git|cmake|ctest|gcc|make|grpcurl|curl|"
                      r"kill|printf|ghz|openssl|apt\S*|systemctl|docker|cargo|mvn|npm|node|pip|python3?|go) \S")
PLAIN = {"c", "text", "ini", "yaml", "json", "proto", "toml"}


def documents():
    found = []
    for folder, folders, files in os.walk(ROOT):
        # Not looked into at all: other tests make and remove things there meanwhile.
        folders[:] = set(folders) - {"build", "data", ".git", "node_modules"}
        found += [Path(folder) / name for name in files if name.endswith(".md")]
    return sorted(found)


class Failure(Exception):
    pass


# ---- reading Markdown ----

class Block:
    def __init__(self, line, language, note):
        self.line, self.language, self.note, self.lines = line, language, note, []


def blocks(path):
    """Headings (##) as None, and blocks of code, in order."""
    found, fence, note, previous, block, indented = [], None, None, "", None, None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if fence:
            if line.strip() == fence:
                fence = None
            else:
                block.lines.append(line)
        elif match := re.match(r"(`{3,}|~{3,})(\w*)", line):
            fence, block = match[1], Block(number, match[2], note)
            found.append(block)
            note = None
        elif line.startswith("    ") and (indented or not previous.strip()):
            if not indented:
                indented, note = Block(number, "", note), None
                found.append(indented)
            indented.lines.append(line[4:])
        else:
            if line.strip():
                indented = None
                match = re.fullmatch(r"<!-- ((?:not run|file|run): .*) -->", line)
                note = match[1] if match else None
                if re.match(r"#{1,2} ", line):
                    found.append(None)
        previous = line
    if fence:
        raise Failure(f"{path}: a block is not closed")
    return found


def prose(path):
    """The lines, without code."""
    fence, lines = None, []
    for line in path.read_text().splitlines():
        if match := re.match(r"(`{3,}|~{3,})", line):
            fence = None if fence else match[1]
        elif not fence and not line.startswith("    "):
            lines.append(line)
    return lines


def anchors(path):
    """Of its headings, as forges make them."""
    seen, found = {}, set()
    for line in prose(path):
        if match := re.match(r"#+ (.*)", line):
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", match[1]).replace("`", "")
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            count = seen[slug] = seen.get(slug, -1) + 1
            found.add(f"{slug}-{count}" if count else slug)
    return found


def links():
    count, failures = 0, []
    for path in documents():
        text = re.sub(r"`[^`]*`", "", "\n".join(prose(path)))
        for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href|srcset)="([^"]+)"', text):
            if re.match(r"[a-z]+:", target):
                continue
            count += 1
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file else path
            if not there.exists():
                failures.append(f"{path.relative_to(ROOT)}: there is no {target}")
            elif anchor and there.suffix == ".md" and anchor not in anchors(there):
                failures.append(f"{path.relative_to(ROOT)}: no heading is {target}")
    print(*failures, sep="\n")
    print(f"{count - len(failures)} passed, {len(failures)} failed")
    return bool(failures)


# ---- running ----

class Shell:
    """One bash for a document."""

    def __init__(self, place, environment):
        self.process = subprocess.Popen(["bash", "--norc"], cwd=place, env=environment, text=True, errors="replace",
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        start_new_session=True)

    def run(self, commands):
        """What they print, and the exit code."""
        self.process.stdin.write(f"{{\n{commands}\n}} </dev/null; printf '\\n\\001%d\\n' $?\n")
        self.process.stdin.flush()
        lines = []
        signal.alarm(BLOCK_S)
        for line in self.process.stdout:
            if line.startswith("\001"):
                signal.alarm(0)
                said = "".join(lines)
                return said.removesuffix("\n"), int(line[1:])
            lines.append(line)
        raise Failure("the shell has ended:\n" + "".join(lines))

    def end(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def joined(lines):
    """Commands, with those that a backslash continues as one."""
    return [c for c in "\n".join(lines).replace("\\\n", " ").splitlines() if c.strip() and not c.startswith("#")]


def as_wanted(wanted, said):
    pattern = "".join(r"(?:[^\n]*\n)*" if line == "..." else
                      ".*".join(re.escape(part) for part in line.rstrip().split("...")) + r"[ \t]*\n" for line in wanted)
    return re.fullmatch(pattern, said if said.endswith("\n") or not said else said + "\n")


def start_server(shell, command):
    listeners = max(1, len(re.findall(r"--listen\b|--metrics-listen\b", command)))
    said, code = shell.run(f"""
out=$(mktemp server-XXXXXX.log)
{command} >$out 2>$out.err &
server=$!
for try in $(seq 2000); do
    [ $(grep -c '^listening on' $out) -lt {listeners} ] || break
    kill -0 $server || {{ cat $out.err; false; break; }}
    sleep 0.05
done
servers="${{servers:-}} $server"
[ $(grep -c '^listening on' $out) -ge {listeners} ]""")
    if code:
        raise Failure(f"{command}: it does not listen\n{said}")


def run_block(shell, place, block):
    kind, _, argument = (block.note or "").partition(": ")
    if kind == "file":
        (place / argument).write_text("\n".join(block.lines) + "\n")
    elif kind == "run":
        if argument != "server":
            raise Failure(f"'run: {argument}' means nothing")
        for command in joined(block.lines):
            start_server(shell, command)
    elif block.language == "sh":
        # In a subshell of its own a failed command would end no more than that, and so would its `cd`.
        said, code = shell.run("trap 'failed=1; echo \"failed: $BASH_COMMAND\"' ERR; failed=0\n" + "\n".join(block.lines)
                               + "\ntrap - ERR; [ $failed = 0 ]")
        if code:
            raise Failure(said)
    else:
        command, wanted, turns = None, [], []
        for line in [*block.lines, "$ "]:
            if line.startswith("$ "):
                if command is not None:
                    turns.append((command, wanted))
                command, wanted = line[2:], []
            elif command is not None and command.endswith("\\"):
                command += "\n" + line
            else:
                wanted.append(line)
        for command, wanted in turns:
            said, _ = shell.run(command)
            if not as_wanted(wanted, said):
                raise Failure(f"$ {command}\n{said}\n-- but the document has:\n" + "\n".join(wanted))


def run_document(path, place, environment):
    shell, done = Shell(place, environment), 0
    try:
        for block in blocks(path):
            if block is None:
                said, code = shell.run('for s in ${servers:-}; do kill $s; wait $s || { echo "a server ended with $?"; '
                                       'false; break; }; done; code=$?; servers=; [ $code = 0 ]')
                if code:
                    raise Failure(f"at a heading: {said}")
                continue
            try:
                note = block.note or ""
                if note.startswith("not run: "):
                    continue
                if not block.language:
                    if any(COMMANDS.match(line) for line in block.lines):
                        raise Failure("commands without a fence, or <!-- not run: WHY -->")
                elif block.language in ("sh", "console") or note:
                    run_block(shell, place, block)
                    done += 1
                elif block.language not in PLAIN:
                    raise Failure(f"{block.language}: not a language that is known here")
            except Failure as failure:
                raise Failure(f"{path.relative_to(ROOT)}:{block.line}: {failure}") from None
    finally:
        shell.end()
    return done


def own_network():
    """Run in a network of this process's own, if it may have one."""
    if os.environ.get("DOCUMENTS_NETWORK") != "own":
        if subprocess.run(["unshare", "-rn", "true"], stderr=subprocess.DEVNULL).returncode != 0:
            print("*** no network of our own: ports 7700 and up have to be free", flush=True)
            return
        os.execvpe("unshare", ["unshare", "-rn", sys.executable, *sys.argv], {**os.environ, "DOCUMENTS_NETWORK": "own"})
    with socket.socket() as s:  # ip link set lo up
        fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))


def run(build, *names):
    own_network()
    build = Path(build).resolve()
    wanted = [Path(name).resolve() for name in names] or documents()
    work = Path(tempfile.mkdtemp(prefix="documents-", dir=build))
    done, failed = 0, 0
    try:
        prefix = work / "usr"
        subprocess.run(["cmake", "--install", build, "--prefix", prefix], check=True, stdout=subprocess.DEVNULL)
        library = next(prefix.rglob("libvarve.so")).parent
        environment = {key: value for key, value in os.environ.items() if not key.startswith("VARVE_")}
        environment.update(PATH=f"{prefix}/bin:{environment['PATH']}", PKG_CONFIG_PATH=f"{library}/pkgconfig",
                           LD_LIBRARY_PATH=str(library), LC_ALL="C.UTF-8", TERM="dumb", CMAKE_PREFIX_PATH=str(prefix))
        for path in wanted:
            place = work / "place"
            (place / "build/release").mkdir(parents=True)
            (place / "build/release/bin").symlink_to(prefix / "bin")
            try:
                if count := run_document(path, place, environment):
                    print(f"{path.relative_to(ROOT)}: {count} blocks", flush=True)
                    done += 1
            except Failure as failure:
                failed += 1
                print(f"FAILED: {failure}", flush=True)
            shutil.rmtree(place, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{done} passed, {failed} failed")
    return bool(failed)


def too_long(*_):
    raise Failure(f"a block takes more than {BLOCK_S} s")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, too_long)
    sys.exit({"links": links, "run": run}[sys.argv[1]](*sys.argv[2:]))
