"""Processes of a benchmark's own that do what lines of their standard input say and answer in lines of JSON, seen from both sides.

`Told` starts and drives one; `serve_load` is what a load of callers does inside: its threads begin at `start`, and end at `stop FILE` with what they saw
in that file. Knows no calls.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

from benchmarks.harness import ROOT

STOP_S = 30.0


class Told:
    """A process of a benchmark's own, that does what lines of its standard input say and answers in lines of JSON. Use as a context.

    It says something when it is ready, and ends with its standard input.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.hear()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            self.process.stdout.close()

    def tell(self, line: str) -> None:
        """Say what it should do."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Wait for its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command)} ended with {self.process.wait(STOP_S)}")
        said: dict[str, Any] = json.loads(line)
        return said


def serve_load(begin: Callable[[threading.Event], Sequence[threading.Thread]], keep: Callable[[str], None]) -> None:
    """Do as standard input says until it ends.

    Args:
        begin: returns threads that ask until the event is set.
        keep: writes what they saw into a file.
    """
    stopping, threads = threading.Event(), list[threading.Thread]()
    _say("ready")
    for line in sys.stdin:
        command, _, path = line.strip().partition(" ")
        if command == "start":
            stopping.clear()
            threads[:] = begin(stopping)
            for thread in threads:
                thread.start()
        elif command == "stop":
            stopping.set()
            for thread in threads:
                thread.join()
            keep(path)
            _say("stopped")
    stopping.set()


def _say(event: str) -> None:
    print(json.dumps({"event": event}), flush=True)
