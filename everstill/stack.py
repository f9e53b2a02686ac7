"""The local stack: starts everstill's processes on this machine, waits until each answers, and stops them in order.

Decides where their logs go and the order of stopping. Holds no logic of theirs: each is a process. Whatever ends the stack -
the end of a story, an error, Ctrl-C - every process is stopped and waited for; on Linux they also end if this process is killed.
Starts and stops on the main thread, which is where signals arrive.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

from protos.errors import UnavailableError

#: Time that a process has to stop after SIGTERM, in seconds; a gateway drains its callers and its ring within it.
STOP_S = 30.0
PR_SET_PDEATHSIG = 1
Value = TypeVar("Value")


@dataclasses.dataclass
class Process:
    """A started process; `log` holds its standard error, `out` its standard output."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: pathlib.Path
    out: pathlib.Path


class Stack:
    """A set of processes that live and die together.

    Args:
        folder: where logs go.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._logs = folder / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._processes: list[Process] = []

    def __enter__(self) -> "Stack":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, module: list[str], environment: Mapping[str, str] | None = None) -> Process:
        """Start `python -m MODULE...` in a session of its own, so that a terminal's Ctrl-C reaches only us."""
        log, out = self._logs / f"{name}.log", self._logs / f"{name}.out"
        with _signals_held(), log.open("wb") as log_file, out.open("wb") as out_file:
            popen = subprocess.Popen(
                [sys.executable, "-m", *module],
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=log_file,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform.startswith("linux") else None,
            )
            process = Process(name, popen, log, out)
            self._processes.append(process)
        return process

    def wait_for(
        self, process: Process, condition: Callable[[], Value | None], what: str, deadline_s: float = 60.0
    ) -> Value:
        """Return the first truthy value of `condition`.

        Raises:
            UnavailableError: the process ended, or the time was up; the last line of its log says why.
        """
        end = time.monotonic() + deadline_s
        while not (value := condition()):
            if process.popen.poll() is not None:
                raise UnavailableError(
                    f"{process.name} ended before {what}: {last_line(process.log)}", fix=f"Its log is {process.log}"
                )
            if time.monotonic() > end:
                raise UnavailableError(
                    f"{process.name} took more than {deadline_s:.0f} s until {what}", fix=f"Its log is {process.log}"
                )
            time.sleep(0.05)
        return value

    def started_event(self, process: Process) -> dict[str, Any]:
        """Wait for a process's own line that it has started, and return it."""
        return self.wait_for(process, lambda: _first_json(process.out), "it said that it had started")

    def check(self) -> None:
        """Raise where a process has ended by itself.

        Raises:
            UnavailableError: naming it, with the last line of its log.
        """
        for process, code in self.ended():
            raise UnavailableError(
                f"{process.name} ended with {code}: {last_line(process.log)}", fix=f"Its log is {process.log}"
            )

    def ended(self) -> list[tuple[Process, int]]:
        """Return the processes that have ended by themselves, with their exit codes."""
        codes = [(process, process.popen.poll()) for process in self._processes]
        return [(process, code) for process, code in codes if code is not None]

    def stop(self, *names: str) -> None:
        """Stop processes (all where none is named), the latest started first, and wait for each."""
        with _signals_held():  # an impatient second Ctrl-C waits, else it would leave the others running
            for process in reversed(self._processes.copy()):
                if names and process.name not in names:
                    continue
                self._processes.remove(process)
                if process.popen.poll() is None:
                    process.popen.terminate()
                    try:
                        process.popen.wait(STOP_S)
                    except subprocess.TimeoutExpired:
                        process.popen.kill()
                        process.popen.wait()


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM until the block is done: a process that started and isn't noted would be left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def last_line(log: pathlib.Path) -> str:
    """Return the last line of a log, for an error's sentence; of a JSON line its event and error."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if not lines:
        return "it said nothing"
    with contextlib.suppress(ValueError, KeyError, TypeError):
        event = json.loads(lines[-1])
        return str(event["event"]) + (f": {event['error']}" if event.get("error") else "")
    return lines[-1]


def _first_json(out: pathlib.Path) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError, IndexError):
        value: dict[str, Any] = json.loads(out.read_text().splitlines()[0])
        return value
    return None


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
