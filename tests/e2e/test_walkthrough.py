"""The README's walk-through as it is written: a teacher and a student of one's own, on a stream that drifts.

The commands are read from the README and run in its order; only `uv run` is taken for this environment. CI sends a short stream,
to see that every command works; the slow test sends the README's own and holds its figures to it.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from registry.status import read_statuses
from registry.store import open_store
from tests.support.documents import blocks, commands
from tests.support.everstill_command import COMMAND, ROOT, environment
from tests.support.waiting import wait_for

SECTION = "Your own teacher, your own student"
SHORT = ["--requests", "500", "--per-second", "100"]


def command_of(words: list[str]) -> list[str]:
    """Return what `uv run` would start."""
    assert words[:2] == ["uv", "run"]
    if words[2] == "everstill":
        return [*COMMAND, *words[3:]]
    assert words[2] == "python"
    return [sys.executable, str(ROOT / words[3]), *words[4:]]


def done(folder: pathlib.Path, words: list[str], *more: str, timeout_s: float = 120.0) -> str:
    """Run a command of the README to its end; returns what it printed."""
    result = subprocess.run(
        [*command_of(words), *more], cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout_s
    )
    assert result.returncode == 0, f"{' '.join(words)}: {result.stderr[-3000:]}{result.stdout[-1000:]}"
    return result.stdout


def ask(folder: pathlib.Path) -> str:
    """Run the README's own client, which asks and tells what was true; returns what it printed."""
    code = "".join(
        text for section in ("Asking it", "Saying what was true") for _, text in blocks(ROOT / "README.md", section)
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def labels_read(folder: pathlib.Path) -> int:
    """Return how many labels the loop has read."""
    told = read_statuses(open_store(str(folder / "my-service/everstill-data/registry")), "my-service").get("loop", {})
    counts = {name: count for name, count in (told.get("labels") or {}).items() if name != "accepted"}
    return sum(count for count in counts.values() if isinstance(count, int))


@contextlib.contextmanager
def up(folder: pathlib.Path, words: list[str]) -> Iterator[None]:
    """Run `everstill up` until the end of the block, and stop it as Ctrl-C does."""
    log = folder / "up.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command_of(words), cwd=folder, env=environment(), stdout=file, stderr=file, start_new_session=True
        )
    try:

        def ready() -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            return "127.0.0.1:8001" in log.read_text()

        wait_for(ready, deadline_s=90, what="everstill up to say the gateway's address")
        yield
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130), log.read_text()[-3000:]
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


def walk(folder: pathlib.Path, *traffic: str) -> dict[str, object]:
    """Do what the README says; returns the report of its traffic."""
    prepare, student, start, look = (text for _, text in blocks(ROOT / "README.md", SECTION))
    for words in commands(prepare):
        done(folder, words)
    (folder / "my-service" / "student.py").write_text(student)
    check, run = commands(start)
    done(folder, check)
    with up(folder, run):
        send, versions = commands(look)
        report = done(folder, send, "--json", *traffic, timeout_s=400.0)
        assert ask(folder).count("[") == 1
        wait_for(lambda: labels_read(folder) == 1, deadline_s=60, what="the loop to read the label")
        wait_for(lambda: "bootstrap" in done(folder, versions), deadline_s=60, what="the first version")
    return dict(json.loads(report))


def test_the_walk_through_works_as_written(tmp_path: pathlib.Path) -> None:
    report = walk(tmp_path, *SHORT)

    assert report["requests"] == 500
    assert report["failed"] == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_walk_through_ends_well_above_the_frozen_student(tmp_path: pathlib.Path) -> None:
    report = walk(tmp_path)

    assert report["failed"] == 0
    assert report["online"]["low"] - report["frozen"]["high"] > 0.15
