"""What the runners in this directory share: building, installing outside the repository, and children that end."""
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "stormsocket-ci"


class Unusable(Exception):
    """Something is missing on this machine or did not start: there is no result, good or bad."""


def build(*programs, release=False):
    """Builds programs of the workspace, and the examples; returns the paths of all by name.

    Without `release` it is as `cargo test --workspace --all-features` builds them, so that what that has compiled is
    used. That is also why examples come along: with them the features are those of tests.
    """
    command = ["cargo", "build", "--locked", "--message-format", "json-render-diagnostics"]
    command += ["--workspace", "--all-features", *(["--release"] if release else []), "--examples"]
    for program in programs:
        command += ["--bin", program]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Unusable("the programs under test could not be built")
    messages = map(json.loads, done.stdout.splitlines())
    return {m["target"]["name"]: m["executable"] for m in messages if m.get("executable")}


def installed(name, facts, install):
    """A directory below the cache that `install(directory)` has filled, once for each version of the files `facts`."""
    digest = hashlib.sha256(b"".join(fact.read_bytes() for fact in facts)).hexdigest()[:16]
    directory = CACHE / f"{name}-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "complete").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            install(directory)
            (directory / "complete").touch()
    return directory


def install_with(command, **options):
    """Runs a package manager; its output is shown only if it fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=900, **options)
    except FileNotFoundError:
        raise Unusable(f"{command[0]} is missing") from None
    except subprocess.TimeoutExpired:
        raise Unusable(f"{command[0]} did not finish within 15 minutes") from None
    if done.returncode:
        raise Unusable(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}")


def npm_packages(name, directory):
    """Installs what `package-lock.json` in `directory` pins; returns the directory that has `node_modules`."""
    facts = [directory / "package.json", directory / "package-lock.json"]

    def install(target):
        for fact in facts:
            shutil.copy(fact, target)
        install_with(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=target)

    return installed(name, facts, install)


CHILDREN = set()


def end(child):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextlib.contextmanager
def running(command, **options):
    """A child in a process group of its own, all of which is gone at the end of the block."""
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
    except FileNotFoundError:
        raise Unusable(f"{command[0]} is missing") from None
    CHILDREN.add(child)
    try:
        yield child
    finally:
        CHILDREN.discard(child)
        end(child)


@contextlib.contextmanager
def listening(command, within=30, **options):
    """A server that says `listening on ADDRESS`, wherever in a line; gives the address."""
    with running(command, stdout=subprocess.PIPE, text=True, **options) as server:
        alarm = threading.Timer(within, server.kill)
        alarm.start()
        said = next((found for line in server.stdout if (found := re.search(r"listening on (\S+)", line))), None)
        alarm.cancel()
        if said is None:
            raise Unusable(f"{command[0]} did not start to listen")
        # What it says later is nobody's business, but must not fill the pipe.
        threading.Thread(target=lambda: [None for _ in server.stdout], daemon=True).start()
        yield said[1]


def main(run):
    """Exit status: what `run` returns; 2 when there is no result."""

    def stop(number, _):
        # Threads wait for children, and the interpreter for threads.
        for child in list(CHILDREN):
            end(child)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        sys.exit(run())
    except Unusable as reason:
        print(f"{pathlib.Path(sys.argv[0]).parent.name}: {reason}", file=sys.stderr)
        sys.exit(2)
