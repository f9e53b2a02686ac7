"""A child process of the gateway: how it is started, told what is wished, and what it said last.

Decides the pause before a dead child is started again, and before a refusing one is told again. Knows nothing of versions'
order: see rollout.py. Main thread, but for one thread that reads the child's output and passes each event on.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

#: Pause before a dead child is started again: first, and at most, in seconds.
RESTART_S, MAX_RESTART_S = 0.5, 30.0
#: Pause before a refused version is tried again (its bundle may be mended, a disk have room again): first, and at most.
RETRY_S, MAX_RETRY_S = 2.0, 60.0
#: A child that lived this long is forgiven its earlier deaths.
FORGIVEN_S = 60.0
#: The end of a dead child's output comes at once, unless a process of its own keeps the pipe open. In seconds.
LAST_WORDS_S = 1.0

Event = dict[str, Any]


@dataclasses.dataclass
class Place:
    """One model in one worker: the version that the worker was given, and what it said of it. All are digests."""

    given: str | None = None
    serving: str | None = None
    refused: str | None = None

    @property
    def loading(self) -> bool:
        """Whether an answer is still to come."""
        return self.given is not None and self.given not in (self.serving, self.refused)


@dataclasses.dataclass
class Child:
    """A child process and what it said last.

    Args:
        arguments: of `python -m serving.app`.
        models: names of the models that it serves.
    """

    name: str
    arguments: list[str] = dataclasses.field(default_factory=list)
    models: Sequence[str] = ()
    process: "subprocess.Popen[str] | None" = None
    started_at: float = 0.0
    started: bool = False
    ever_started: bool = False
    listening: bool = False
    deaths: int = 0
    restarts: int = 0
    start_after: float = 0.0
    told: str = ""
    last_words: dict[str, str] = dataclasses.field(default_factory=dict)
    refusals: int = 0
    retry_at: float | None = None
    asked_to_stop: bool = False
    quiet_since: float | None = None
    places: dict[str, Place] = dataclasses.field(default_factory=dict)
    listener: threading.Thread | None = None

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self.process is not None

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self.process.pid if self.process is not None else None

    def start(
        self, environment: Mapping[str, str], hear: Callable[["Child", object, Event], None], pass_fds: Sequence[int]
    ) -> None:
        """Start the process.

        Args:
            hear: told (child, process, event) by another thread; an empty event is the end of its output.
            pass_fds: descriptors that it keeps open.
        """
        # A group of its own: Ctrl-C in a terminal reaches the parent only, which stops the children in order.
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.app", *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            process_group=0,
            pass_fds=tuple(pass_fds),
        )
        self.restarts += bool(self.deaths) or self.asked_to_stop
        self.process, self.started_at = process, time.monotonic()
        self.started, self.listening, self.told, self.last_words, self.retry_at = False, False, "", {}, None
        self.asked_to_stop, self.quiet_since = False, None
        self.places = {model: Place() for model in self.models}
        self.listener = threading.Thread(
            target=listen, args=(self, process, hear), name=f"listen-{self.name}", daemon=True
        )
        self.listener.start()

    def hear_out(self) -> None:
        """Wait until all that a dead process said was passed on."""
        if self.listener is not None:
            self.listener.join(LAST_WORDS_S)

    def bury(self) -> None:
        """Let go of a dead process and note when the next may be started; one that was asked to stop didn't die."""
        now = time.monotonic()
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        if self.asked_to_stop:
            self.start_after = now + RESTART_S
        else:
            self.deaths = 1 if now - self.started_at > FORGIVEN_S else self.deaths + 1
            self.start_after = now + min(RESTART_S * 2 ** (self.deaths - 1), MAX_RESTART_S)
        self.process, self.started, self.listening = None, False, False
        self.places = {model: Place() for model in self.models}

    def tell(self, message: Mapping[str, Any]) -> None:
        """Write one line to the child; one that is gone will be told again when it is back, one that refused later."""
        if self.process is None or self.process.stdin is None:
            return
        line = json.dumps(message)
        if line == self.told:
            if self.retry_at is None or time.monotonic() < self.retry_at:
                return
        else:
            self.refusals = 0
        self.retry_at = None
        for place in self.places.values():
            place.refused = None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            self.told = line
        except (BrokenPipeError, ValueError):
            self.told = ""

    def ask_to_stop(self) -> None:
        """Tell it to stop; it is told nothing more, and started again when it has ended."""
        self.tell({"stop": True})
        self.asked_to_stop, self.quiet_since = True, None

    def hangs(self, deadline_s: float) -> bool:
        """Whether it owes an answer (a version to load, its end) and has been silent for this long since."""
        owes = self.asked_to_stop or any(place.loading for place in self.places.values())
        if not self.runs or not owes:
            self.quiet_since = None
            return False
        if self.quiet_since is None:
            self.quiet_since = time.monotonic()
        return time.monotonic() - self.quiet_since > deadline_s

    def refused(self) -> None:
        """Note that it couldn't do what it was told, so that it is told again, ever more rarely."""
        self.retry_at = time.monotonic() + min(RETRY_S * 2**self.refusals, MAX_RETRY_S)
        self.refusals += 1


def listen(child: Child, process: "subprocess.Popen[str]", hear: Callable[[Child, object, Event], None]) -> None:
    """Pass on what a child says until it ends."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            try:
                event = json.loads(line)
                if not isinstance(event, dict) or not isinstance(event.get("event"), str):
                    raise ValueError(line)
            except ValueError:  # a library printed: not worth a child
                structlog.get_logger().warning("child said what isn't an event", child=child.name, line=line[:200])
                continue
            hear(child, process, event)
    hear(child, process, {})
