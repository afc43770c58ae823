"""
How the conformance client of each language is built and run. What is fetched, generated and built stays below
$E2E_DIR, and is made again only when what it is made from has changed.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys

import setup
import varved

HERE = varved.HERE / "conformance"
PROTO = varved.ROOT / "proto"
PROTOS = sorted(PROTO.glob("varve/v1/*.proto"))
BUILD_S = 900


def skip(language, why):
    print(f"\n*** SKIPPED: the {language} client was NOT run against varved: {why}\n", file=sys.stderr)
    sys.exit(77)


def made(name, sources, make):
    """The directory of a client, made if it is not there as these sources would have it."""
    place = varved.BUILD / name
    with open(varved.BUILD / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, mark = setup.digest([*sources, *PROTOS, HERE / "languages.py"]), place / ".made-from"
        if not mark.exists() or mark.read_text() != stamp:
            place.mkdir(exist_ok=True)
            mark.unlink(missing_ok=True)
            for source in sources:
                shutil.copy(source, place)
            make(place)
            mark.write_text(stamp)
    return place


def run(*command, **kwargs):
    subprocess.run(command, check=True, timeout=BUILD_S, **kwargs)


def python():
    return [sys.executable, HERE / "client.py"]


def node():
    return ["node", HERE / "client.mjs"]


def need_go():
    if not shutil.which("go"):
        skip("Go", "there is no go")
    version = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True).stdout
    if not (found := re.match(r"go1\.(\d+)", version)) or int(found[1]) < 21:
        skip("Go", f"go is {version.strip()}, at least 1.21 is needed")


def go_environment():
    """Modules and compiled packages that all clients in Go share."""
    return {**os.environ, "GOPATH": str(varved.BUILD / "go-path"), "GOCACHE": str(varved.BUILD / "go-cache"),
            "GOTOOLCHAIN": "local", "GOFLAGS": "-modcacherw"}


def go():
    need_go()

    def make(place):
        env = go_environment()
        package = "varve.example/conformance/varvev1"
        run("go", "build", "-o", "protoc-gen-go", "google.golang.org/protobuf/cmd/protoc-gen-go", cwd=place, env=env)
        run("protoc", f"-I{PROTO}", "--plugin=protoc-gen-go=./protoc-gen-go", "--go_out=.",
            "--go_opt=module=varve.example/conformance",
            *[f"--go_opt=M{proto.relative_to(PROTO)}={package}" for proto in PROTOS], *PROTOS, cwd=place)
        run("go", "build", "-o", "client", ".", cwd=place, env=env)

    return [made("conformance-go", [HERE / "go" / name for name in ("main.go", "go.mod", "go.sum")], make) / "client"]


def java():
    for tool in ("javac", "java", "mvn", "protoc"):
        if not shutil.which(tool):
            skip("Java", f"there is no {tool}")

    def make(place):
        run("mvn", "-q", "-B", f"-Dmaven.repo.local={place / 'm2'}", "initialize", cwd=place)
        shutil.rmtree(place / "m2")
        plugin = place / "protoc-gen-grpc-java"
        plugin.chmod(0o755)
        (place / "src").mkdir(exist_ok=True)
        run("protoc", f"-I{PROTO}", f"--plugin=protoc-gen-grpc-java={plugin}", "--java_out=src", "--grpc-java_out=src",
            "--grpc-java_opt=@generated=omit", *PROTOS, cwd=place)
        run("javac", "-d", "classes", "-cp", "jars/*", "Client.java", *sorted((place / "src").rglob("*.java")),
            cwd=place)

    place = made("conformance-java", [HERE / "java" / name for name in ("Client.java", "pom.xml")], make)
    # One thread of the compiler and no more heap than it needs: it runs beside other tests.
    return ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp",
            f"{place / 'classes'}:{place / 'jars'}/*", "Client"]


def client(language):
    """The command of a client; it takes the server's address and the file of the cases."""
    return {"python": python, "node": node, "go": go, "java": java}[language]()
