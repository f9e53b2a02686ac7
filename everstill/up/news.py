"""What `everstill up` tells while it runs: each model's state, and what was decided since the last look.

Decides what is news: a ledger line, a trial that was opened, a version that a gateway refused. Reads through `inspect`; a registry
that can't be read for a moment is no news. Main thread.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from everstill import inspect
from everstill.config import EverstillSettings
from everstill.ledger.sentences import describe, power
from protos.errors import EverstillError
from registry.bundle import version_of
from registry.ledger import Ledger, Line
from registry.store import open_store


class News:
    """Looks at every model and remembers what was told. What a process said before this was made, an earlier run's has said."""

    def __init__(self, models: Mapping[str, EverstillSettings]) -> None:
        self._models = models
        self._begun_unix_s = time.time()
        self._told_lines = {name: len(self._lines(settings)) for name, settings in models.items()}
        self._told_trials: dict[str, str | None] = {}
        self._told_refusals: set[tuple[str, str, str]] = set()

    def look(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return each model's state, and the events since the last look."""
        states: list[dict[str, Any]] = []
        events: list[dict[str, Any]] = []
        for name, settings in self._models.items():
            try:
                body = inspect.status(settings)
                body["processes"] = self._of_this_run(body["processes"])
                events += self._events(name, settings, body)
            except EverstillError:
                continue
            states.append(state_of(settings, body))
        return states, events

    def _events(self, name: str, settings: EverstillSettings, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        lines = self._lines(settings)
        for line in lines[self._told_lines[name] :]:
            yield {"event": "decision", "model": name, "text": describe(line), **decision(line)}
        self._told_lines[name] = len(lines)
        trial = body["trial"]["candidate"] if body["trial"] else None
        if trial and trial != self._told_trials.get(name):
            version, share = version_of(trial), body["trial"]["share"]
            text = (
                f"trial opened: {version} against {version_of(body['trial']['incumbent'])}, on {share:.0%} of requests"
            )
            yield {"event": "trial", "model": name, "version": version, "share": share, "text": text}
        self._told_trials[name] = trial
        for process in body["processes"].values():
            for one in process.get("refused", []):
                if (key := (name, one["version"], one["reason"])) not in self._told_refusals:
                    self._told_refusals.add(key)
                    yield {
                        "event": "refused",
                        "model": name,
                        **one,
                        "text": f"refused {one['version']}: {one['reason']}",
                    }

    def _of_this_run(self, processes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return what was said since the start: a loop that died left its last words, and its error isn't the new loop's."""
        return {name: one for name, one in processes.items() if one["time_unix_s"] >= self._begun_unix_s}

    @staticmethod
    def _lines(settings: EverstillSettings) -> list[Line]:
        try:
            return Ledger(open_store(settings.registry.url), settings.model.name).lines()
        except EverstillError:
            return []


def state_of(settings: EverstillSettings, body: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a model's state."""
    loop: dict[str, Any] = next((one for one in body["processes"].values() if one["process"] == "loop"), {})
    pairs = loop.get("pairs") or {}
    trial = body["trial"]
    evidence = (trial or {}).get("evidence") or {}
    return {
        "event": "state",
        "model": body["model"],
        "live": body["live"],
        "passes_through": body["live"] is None and settings.gateway.pass_through,
        "agreement": loop.get("agreement"),
        "pairs": pairs.get("learned", 0) + pairs.get("held_out", 0),
        "pairs_needed": settings.release.bootstrap_pairs,
        "lag": loop.get("lag"),
        "away": loop.get("away") or "",
        "rows": (body["traffic"] or {}).get("rows"),
        "teacher_share": (body["traffic"] or {}).get("teacher_share"),
        "trial": {
            "version": version_of(trial["candidate"]),
            **{key: evidence.get(key) for key in ("wins", "losses", "total", "log_e", "requests_needed")},
            "needed_log_e": trial["needed_log_e"],
        }
        if trial
        else None,
        "last_cut": loop.get("last_cut"),
    }


def sentence(state: dict[str, Any]) -> str:
    """Return a model's state as one line."""
    if state["live"]:
        parts = [f"version {state['live']} serves"]
    elif state["passes_through"]:
        parts = [f"the teacher answers; first version after {state['pairs']} of {state['pairs_needed']} answers"]
    else:
        parts = [f"no version yet: {state['pairs']} of {state['pairs_needed']} teacher answers"]
    if agreement := state["agreement"]:
        parts.append(f"agreement {agreement['estimate']:.3f} [{agreement['low']:.3f}, {agreement['high']:.3f}]")
    if state["rows"]:
        parts.append(f"{state['rows']:,} rows, teacher asked about {state['teacher_share']:.1%}")
    if state["away"]:
        parts.append(f"the stream is away, what is sampled waits on disk: {state['away']}")
    if trial := state["trial"]:
        if trial["total"] is None:
            parts.append(f"trial of {trial['version']} begins")
        else:
            e, needed = power(trial["log_e"]), power(trial["needed_log_e"])
            parts.append(
                f"trial of {trial['version']}: {trial['wins']} wins, {trial['losses']} losses of {trial['total']}, "
                f"E {e} of {needed}"
            )
    return "; ".join(parts)


def decision(line: Line) -> dict[str, Any]:
    """Return a ledger line's facts."""
    return {"kind": line.kind, "version": version_of(line.digest), "line": line.number, "evidence": line.evidence}
