"""Processes that race for one folder registry: `python -m tests.support.racers ACTION REGISTRY ARGUMENTS...`.

A racer says "ready", waits for a line on its standard input, acts, and prints what it got as one JSON value. `race` starts
several, lets them go at once and returns what each printed.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

from protos.errors import ConflictError
from registry.fetching import Policy, fetch_bundle
from registry.lease import Lease
from registry.ledger import Ledger
from registry.store import AlreadyExists, Moved, ObjectStore, open_store

ROOT = pathlib.Path(__file__).parents[2]
MODEL = "filetypes"
DEADLINE_S = 60


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start a racer and return it once it is ready; it runs when `go` is called."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.racers", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    """Let a racer run."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> None:
    """Kill a racer if it still runs, and close its pipes."""
    process.kill()
    process.communicate()


def race(lanes: Sequence[tuple[object, ...]]) -> list[object]:
    """Run one racer for each lane's arguments, all at once, and return what they printed."""
    processes: list[subprocess.Popen[str]] = []
    try:
        for lane in lanes:
            processes.append(start(*lane))
        for process in processes:
            go(process)
        outputs = [process.communicate(timeout=DEADLINE_S)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes)
        return [json.loads(output) for output in outputs]
    finally:
        for process in processes:
            end(process)


def increment(store: ObjectStore, times: str) -> object:
    """Add one to a counter, `times` times; returns how often somebody else was first."""
    lost = 0
    for _ in range(int(times)):
        while True:
            blob = store.get("counter")
            try:
                store.swap("counter", str(int(blob.data) + 1).encode(), blob.version)
            except Moved:
                lost += 1
                continue
            break
    return lost


def create(store: ObjectStore, times: str, name: str) -> object:
    """Try to create objects 0, 1, 2...; returns the numbers where this racer was first."""
    won = []
    for number in range(int(times)):
        try:
            store.create(f"prizes/{number}", name.encode())
        except AlreadyExists:
            continue
        won.append(number)
    return won


def append(store: ObjectStore, times: str, name: str) -> object:
    """Append decisions, every other one of a trial that all racers decide; returns each trial's line."""
    ledger = Ledger(store, MODEL)
    decided = {}
    for number in range(int(times)):
        trial_id = f"shared-{number}" if number % 2 else f"{name}-{number}"
        line = ledger.append(
            kind="reject", trial_id=trial_id, digest="d", previous_digest=None, evidence={"by": name}, actor=name
        )
        decided[trial_id] = line.number
    return decided


def acquire(store: ObjectStore, name: str) -> object:
    """Try to take the loop's lease; returns its epoch, or null where somebody else was first."""
    try:
        return Lease.acquire(store, MODEL, "loop", name, 600.0).epoch
    except ConflictError:
        return None


def fetch(store: ObjectStore, digest: str, cache: str) -> object:
    """Fetch a bundle; returns its version."""
    return fetch_bundle(store, digest, pathlib.Path(cache), Policy()).version


def overwrite(store: ObjectStore, size: str) -> object:
    """Write whole pages of one letter over one another, until killed."""
    while True:
        for letter in (b"a", b"b"):
            store.put("page", letter * int(size))


ACTIONS: dict[str, Callable[..., object]] = {
    action.__name__: action for action in (increment, create, append, acquire, fetch, overwrite)
}


def main() -> int:
    """Run one racer."""
    action, url, *arguments = sys.argv[1:]
    store = open_store(url)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(ACTIONS[action](store, *arguments)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
