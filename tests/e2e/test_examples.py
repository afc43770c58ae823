"""
examples/: the client in each language against a real server, made as its README says; all of them print the same.

    test_examples.py python|node|go|java|rust

A language that is missing is loudly skipped (exit code 77), but Python and Node. What is fetched and built stays below
$E2E_DIR. The C example is for tests/install, which has the library where an embedder has it.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import varved
from conformance import languages
from varved import Varved

EXAMPLES = varved.ROOT / "examples"
EXPECTED = (EXAMPLES / "expected.txt").read_text()
RUN_S = 600


def pinned(path):
    return dict(line.split("==") for line in path.read_text().split() if "==" in line)


def python(_):
    """In the venv of all these tests, with their stubs: the example wants nothing else, and the same versions."""
    ours = pinned(varved.HERE / "requirements.txt")
    for name, version in pinned(EXAMPLES / "python/requirements.txt").items():
        assert ours.get(name) == version, f"examples/python wants {name} {version}, the tests have {ours.get(name)}"
    return [sys.executable, EXAMPLES / "python/example.py"], EXAMPLES, {"PYTHONPATH": varved.BUILD / "stubs"}


def node(place):
    ours = json.loads((varved.HERE / "package.json").read_text())["dependencies"]
    theirs = json.loads((EXAMPLES / "node/package.json").read_text())["dependencies"]
    assert theirs == ours, f"examples/node wants {theirs}, the tests have {ours}"
    # Node looks for packages beside the program.
    shutil.copy(EXAMPLES / "node/example.mjs", place)
    (place / "node_modules").symlink_to(varved.BUILD / "node/node_modules")
    return ["node", place / "example.mjs"], place, {"VARVE_PROTO": languages.PROTO}


def source(language, *names):
    """A copy to build in, with the proto/ that it expects two folders above; kept, since it is slow to make."""
    top = varved.BUILD / f"example-{language}"
    place = top / "examples" / language
    if not (top / "proto").is_symlink():
        place.mkdir(parents=True, exist_ok=True)
        (top / "proto").symlink_to(languages.PROTO)
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLES / language / name, place / name)
    return place


def go(_):
    languages.need_go()
    place = source("go", "main.go", "go.mod", "go.sum")
    env = languages.go_environment()
    tools = place / "tools"
    wanted = re.findall(r"^go install (\S+)$", (EXAMPLES / "README.md").read_text(), re.M)
    assert len(wanted) == 2, wanted
    for tool in wanted:
        if not (tools / tool.replace("/", "-")).exists():
            languages.run("go", "install", tool, env={**env, "GOBIN": str(tools)})
            (tools / tool.replace("/", "-")).touch()
    env["PATH"] = f"{tools}:{env['PATH']}"
    languages.run("go", "generate", cwd=place, env=env)
    languages.run("go", "build", "-o", "example", ".", cwd=place, env=env)
    return [place / "example"], place, {}


def java(_):
    for tool in ("javac", "mvn"):
        if not shutil.which(tool):
            languages.skip("Java", f"there is no {tool}")
    place = source("java", "pom.xml", "src/main/java/Example.java")
    maven = ["mvn", "-q", "-B", "-Dstyle.color=never", f"-Dmaven.repo.local={varved.BUILD / 'example-java/m2'}"]
    return lambda address: [*maven, "compile", "exec:java", f"-Dexec.args={address}"], place, {}


def rust(_):
    for tool in ("cargo", "protoc"):
        if not shutil.which(tool):
            languages.skip("Rust", f"there is no {tool}")
    version = subprocess.run(["cargo", "--version"], capture_output=True, text=True).stdout
    if not (found := re.match(r"cargo 1\.(\d+)", version)) or int(found[1]) < 75:
        languages.skip("Rust", f"cargo is {version.strip()}, at least 1.75 is needed")
    place = source("rust", "Cargo.toml", "build.rs", "src/main.rs")
    home = varved.BUILD / "example-rust/cargo"
    home.mkdir(exist_ok=True)
    # Where crates come from is the user's to say.
    theirs = os.path.join(os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo")), "config.toml")
    if os.path.exists(theirs):
        shutil.copy(theirs, home)
    languages.run("cargo", "build", "--quiet", cwd=place,
                  env={**os.environ, "CARGO_HOME": str(home), "CARGO_TARGET_DIR": str(place / "target")})
    return [place / "target/debug/varve-example"], place, {}


def main(language):
    work = varved.work_dir("examples")
    command, cwd, env = {"python": python, "node": node, "go": go, "java": java, "rust": rust}[language](work)
    with Varved(work / "data") as server:
        command = command(server.address) if callable(command) else [*command, server.address]
        said = subprocess.run(command, cwd=cwd, env=varved.environment({key: str(value) for key, value in env.items()}),
                              stdout=subprocess.PIPE, text=True, timeout=RUN_S)
        print(said.stdout, end="", flush=True)
        assert said.returncode == 0, f"the {language} example ended with {said.returncode}"
        lines = re.sub(r"\x1b\[[0-9;]*m", "", said.stdout)  # Maven sets colours back, even where there were none
        assert lines == EXPECTED, f"the {language} example did not print what examples/expected.txt has"
        assert server.stop() == 0
    print(f"{language}: 1 passed, 0 failed", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
