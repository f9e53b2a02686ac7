"""The command `everstill` as a user starts it: a process of its own, in a folder of the test's."""

import contextlib
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from everstill.cli import main; main()"]


def run(
    folder: pathlib.Path, *arguments: str, timeout_s: float = 60.0, largest_file_bytes: int | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end.

    Args:
        largest_file_bytes: writing beyond it fails, as on a full disk.
    """

    variables = environment()
    if largest_file_bytes is not None:  # a measured child couldn't write its coverage either, and would say so
        variables = {name: value for name, value in variables.items() if not name.startswith("COVERAGE_")}
        # Python 3.11 would keep a compiled module that was cut off there, and every later process would fail on it.
        variables["PYTHONDONTWRITEBYTECODE"] = "1"

    def limit() -> None:
        if largest_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))

    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        preexec_fn=limit,
    )


class Running:
    """A command that runs; `errors` is the file that its standard error goes to."""

    def __init__(self, process: "subprocess.Popen[bytes]", errors: pathlib.Path, output: pathlib.Path) -> None:
        self.process = process
        self.errors = errors
        self.output = output

    def events(self) -> list[dict[str, Any]]:
        """Return the JSON lines that it has printed whole; raises where it has ended."""
        assert self.process.poll() is None, self.errors.read_text()[-2000:]
        lines = self.output.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def said(self, words: str) -> bool:
        """Return whether it has said something; raises where it has ended."""
        text = self.errors.read_text()
        assert words in text or self.process.poll() is None, f"ended before it said {words!r}: {text[-2000:]}"
        return words in text


@contextlib.contextmanager
def running(folder: pathlib.Path, *arguments: str) -> Iterator[Running]:
    """Start a command in a session of its own; it is interrupted at the end where it still runs."""
    errors, output = folder / "stderr.txt", folder / "stdout.txt"
    with errors.open("wb") as error_file, output.open("wb") as output_file:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output_file,
            stderr=error_file,
            start_new_session=True,
        )
    try:
        yield Running(process, errors, output)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def environment() -> dict[str, str]:
    """Return the variables that a command runs with."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1"}
