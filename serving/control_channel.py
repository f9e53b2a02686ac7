"""The pipe between the gateway's parent and its children: JSON lines on standard input and output.

Down: {"desired": {"live": DIGEST or null, "trial": {...} or null}} and {"stop": true}; the end of input means that the parent
is gone, and stops the child too, so that none is left behind. Up: {"event": ...}. Any language can speak it: see
docs/decisions/0002.
"""

import contextlib
import json
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

import structlog


class ControlChannel:
    """The child's end. `on_desired` runs in a thread of its own, never twice at once; only the newest wish is kept.

    Args:
        on_desired: called with {"live": ..., "trial": ...}. What it raises is logged, and the next wish is followed.
        on_stop: called once, when the parent says so or is gone.
    """

    def __init__(
        self,
        on_desired: Callable[[dict[str, Any]], None],
        on_stop: Callable[[], None],
        *,
        source: TextIO = sys.stdin,
        sink: TextIO = sys.stdout,
    ) -> None:
        self._on_desired = on_desired
        self._on_stop = on_stop
        self._source = source
        self._sink = sink
        self._sink_lock = threading.Lock()
        self._wish: dict[str, Any] | None = None
        self._changed = threading.Condition()
        self._stopped = False

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._read, name="control-read", daemon=True).start()
        threading.Thread(target=self._follow, name="control-follow", daemon=True).start()

    def emit(self, event: str, **fields: Any) -> None:
        """Tell the parent; a parent that is gone can't be told and isn't."""
        line = json.dumps({"event": event, **fields}) + "\n"
        with self._sink_lock:
            try:
                self._sink.write(line)
                self._sink.flush()
            except (BrokenPipeError, ValueError):
                return

    def _read(self) -> None:
        for line in self._source:
            message: dict[str, Any] = {}
            with contextlib.suppress(ValueError):  # a killed parent leaves half a line: the end of input follows
                message = json.loads(line)
            if message.get("stop"):
                break
            if "desired" in message:
                with self._changed:
                    self._wish = message["desired"]
                    self._changed.notify()
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._on_stop()

    def _follow(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wish is not None or self._stopped)
                wish, self._wish = self._wish, None
                if self._stopped or wish is None:
                    return
            try:
                self._on_desired(wish)
            except Exception:  # a supervision point: a wish that can't be followed must not end the following
                structlog.get_logger().exception("what the registry wishes can't be followed", desired=wish)
