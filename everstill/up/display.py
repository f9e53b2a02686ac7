"""How `everstill up` shows what it does: a live table in a terminal, few plain lines where there is none, or JSON lines.

Decides how often. Standard output only. Main thread.
"""

import json
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from everstill.up.news import sentence

#: Time between two plain lines of one model, where its state changed, in seconds.
LINE_INTERVAL_S = 30.0


class Display:
    """Shows events and states. Use as a context manager.

    Args:
        several: whether lines have to name their model.
    """

    def __init__(self, *, as_json: bool = False, several: bool = False, console: Console | None = None) -> None:
        self._as_json = as_json
        self._several = several
        self._console = console or Console(highlight=False)
        in_terminal = self._console.is_terminal and not as_json
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if in_terminal else None
        self._last: dict[str, str] = {}
        self._said_at = float("-inf")

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def event(self, event: str, text: str = "", **facts: Any) -> None:
        """Tell something that happened: `text` for people, the facts for scripts."""
        if self._as_json:
            print(json.dumps({"event": event, "time_unix_s": time.time(), **facts}), flush=True)
        elif text:
            model = f"{facts['model']}: " if "model" in facts and self._several else ""
            self._console.print(f"{model}{text}", markup=False, soft_wrap=True)

    def states(self, states: list[dict[str, Any]]) -> None:
        """Bring the display up to date; plain lines come rarely, and only where something changed."""
        if self._live:
            table = Table.grid(padding=(0, 2))
            for state in states:
                table.add_row(Text(state["model"], style="bold"), sentence(state))
            self._live.update(table, refresh=True)
        now = time.monotonic()
        if not self._live and now - self._said_at < (1.0 if self._as_json else LINE_INTERVAL_S):
            return
        self._said_at = now
        for state in states:
            line = sentence(state)
            known = self._last.get(state["model"])
            self._last[state["model"]] = line
            if not self._live and line != known:
                self.event(**{**state, "text": line})
