"""The demo's live display: a table that is redrawn in a terminal, or a line now and then where there is none. Standard error only."""

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from everstill.demo.watch import View
from everstill.ledger.sentences import describe
from registry.bundle import version_of
from registry.ledger import Line

#: Time between two lines where there is no terminal, in seconds.
LINE_INTERVAL_S = 5.0
#: Decisions shown at once.
SHOWN = 6


class Display:
    """Shows the story as it goes. Use as a context manager."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._live = Live(console=self.console, refresh_per_second=4) if self.console.is_terminal else None
        self._said_at = 0.0
        self._seen_lines = 0

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print one line above the table; only a terminal's width wraps it."""
        self.console.print(text, highlight=False, soft_wrap=not self.console.is_terminal)

    def progress(self) -> Callable[[str], None]:
        """Return what says how far something is: in the table's place, or a line now and then where there is no terminal."""
        said_at = time.monotonic()

        def note(text: str) -> None:
            nonlocal said_at
            if self._live:
                self._live.update(Text(f"  {text}"))
            elif time.monotonic() - said_at > LINE_INTERVAL_S:
                said_at = time.monotonic()
                self.say(f"  {text}")

        return note

    def show(
        self,
        view: View,
        *,
        num_sent: int,
        num_all: int,
        phase: str,
        latency_ms: tuple[float, float] | None,
        failed: int,
    ) -> None:
        """Bring the display up to date.

        Args:
            latency_ms: median and 99th percentile of the newest requests, as the caller sees them; None before the first.
        """
        for line in view.lines[self._seen_lines :]:
            self.say(f"  {describe_line(line)}")
        self._seen_lines = len(view.lines)
        rows = _rows(view, num_sent, num_all, phase, latency_ms, failed)
        if self._live:
            self._live.update(_table(rows))
        elif time.monotonic() - self._said_at > LINE_INTERVAL_S:
            self._said_at = time.monotonic()
            self.say("  ".join(f"{name}: {value}" for name, value in rows))


def describe_line(line: Line) -> str:
    """Return a ledger line as a sentence with its evidence."""
    evidence, version = line.evidence, version_of(line.digest)[:6]
    if line.kind == "bootstrap":
        return f"[bold]first version[/] {version}, trained on {evidence.get('pairs')} teacher answers"
    if line.kind == "gap" and evidence.get("end") is None:
        return f"[bold yellow]gap[/]: the stream of {evidence.get('topic')} was {'cut off' if 'cut_off_at' in evidence else 'replaced'}"
    if line.kind == "gap":
        return f"[bold yellow]gap[/]: {evidence.get('messages')} messages of {evidence.get('topic')} were removed before they were read"
    if "log_e" not in evidence and line.kind != "promote":
        return describe(line)
    counts = f"{evidence.get('wins')} wins, {evidence.get('losses')} losses in {evidence.get('total')} trial requests"
    e, needed = math.exp(min(float(evidence.get("log_e", 0.0)), 700.0)), 1 / float(evidence.get("alpha", 0.01))
    word = {"promote": "[bold green]PASS[/]", "observe": "[bold green]PASS[/]", "reject": "[bold red]FAIL[/]"}.get(
        line.kind, "[bold yellow]INCONCLUSIVE[/]"
    )
    done = "promoted" if line.kind == "promote" else "not promoted"
    return f"gate {word}: {version} {done}; {counts}; E = {e:.3g} of {needed:.3g} needed"


def describe_agreement(agreement: dict[str, Any] | None) -> str:
    """Return an estimate with its interval."""
    if not agreement or agreement.get("estimate") is None:
        return "no sample yet"
    return f"{agreement['estimate']:.3f} [{agreement['low']:.3f}, {agreement['high']:.3f}]"


def _rows(
    view: View, num_sent: int, num_all: int, phase: str, latency_ms: tuple[float, float] | None, failed: int
) -> list[tuple[str, str]]:
    loop, trial = view.loop, view.loop.get("trial")
    calls = f"{view.teacher_calls} = {view.teacher_calls / max(1, num_sent):.1%} of requests"
    rows = [
        ("requests", f"{num_sent} of {num_all} ({phase})" + (f", {failed} failed" if failed else "")),
        ("serving", view.gateway.get("live") or "the teacher (no version yet)"),
        ("agreement", describe_agreement(loop.get("agreement"))),
        ("teacher calls", calls + (f", {view.dropped} samples dropped" if view.dropped else "")),
        ("latency", f"p50 {latency_ms[0]:.1f} ms, p99 {latency_ms[1]:.1f} ms" if latency_ms else "no answer yet"),
    ]
    if trial:
        counts = f"{trial['wins']} wins, {trial['losses']} losses, {trial['total']} requests"
        if trial.get("requests_needed"):
            counts += f" of about {trial['requests_needed']:,}"
        e = math.exp(min(trial["log_e"], 700.0))
        rows.append(("trial", f"{trial['candidate'][:6]} against {trial['incumbent'][:6]}: {counts}, E = {e:.3g}"))
    return rows


def _table(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", justify="right", no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    return table
