"""The ledger of a model: one line for each decision, created if absent and chained by hash. The line is the decision.

Decides the order of decisions and that a trial is decided once. Knows nothing of gates. The loop and an operator's command
append; anybody reads. The chain shows a line that was changed, taken out or put in; that the newest was cut off shows only in
the live pointer, which names its line. Any thread, any process.
"""

import hashlib
import json
import pathlib
import re
import time
from typing import Any, Literal

import pydantic

from protos.errors import FormatError
from registry.sections import Section
from registry.store import AlreadyExists, NotFound, ObjectStore

Kind = Literal["bootstrap", "promote", "reject", "inconclusive", "rollback", "gap", "observe"]
GENESIS = "0" * 64


class LedgerError(FormatError):
    """A line that is missing, changed, or doesn't follow from the one before."""


class Line(Section):
    """One decision, or (`gap`) what retention removed before it was learned from; its digest is then the live version's, or empty. `hash` covers every other field, `previous_hash` included."""

    number: int
    kind: Kind
    trial_id: str
    digest: str
    previous_digest: str | None
    evidence: dict[str, Any]
    rows_digest: str | None
    time_unix_s: float
    actor: str
    previous_hash: str
    hash: str = ""

    def computed_hash(self) -> str:
        """Return the hash that this line's content has."""
        body = self.model_dump(mode="json", exclude={"hash"})
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def moves_live(self) -> bool:
        """Whether this decision makes `digest` the live version."""
        return self.kind in ("bootstrap", "promote", "rollback")


class Ledger:
    """The ledger of one model. Any thread, any process."""

    _NAME = re.compile(r"\d{8}\.json")

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._folder = f"models/{model}/ledger"

    def append(
        self,
        *,
        kind: Kind,
        trial_id: str,
        digest: str,
        previous_digest: str | None,
        evidence: dict[str, Any],
        rows_digest: str | None = None,
        actor: str,
    ) -> Line:
        """Write a decision and return its line; a trial that has one keeps it, and that line is returned.

        Two writers at once are put in order: the later one's line follows the earlier one's.
        """
        while True:
            lines = self.lines()
            for line in lines:
                if line.trial_id == trial_id:
                    return line
            line = Line(
                number=len(lines) + 1,
                kind=kind,
                trial_id=trial_id,
                digest=digest,
                previous_digest=previous_digest,
                evidence=evidence,
                rows_digest=rows_digest,
                time_unix_s=time.time(),
                actor=actor,
                previous_hash=lines[-1].hash if lines else GENESIS,
            )
            line = Line.model_validate_json(line.model_dump_json())  # what readers will see: no tuple, no infinity
            line = line.model_copy(update={"hash": line.computed_hash()})
            try:
                self._store.create(self._path(line.number), line.model_dump_json().encode())
            except AlreadyExists:
                continue
            return line

    def lines(self) -> list[Line]:
        """Return every line, oldest first.

        Raises:
            LedgerError: a line is missing in between, or isn't one.
        """
        listed = self._store.list(self._folder)
        if foreign := [path for path in listed if not self._NAME.fullmatch(path.removeprefix(f"{self._folder}/"))]:
            raise LedgerError(f"{foreign[0]} is not a ledger line's name")
        # Only the highest number is taken from the listing: one that races with writers may show a line and not the one before.
        highest = max((int(pathlib.PurePosixPath(path).stem) for path in listed), default=0)
        return [self.line(number) for number in range(1, highest + 1)]

    def last(self) -> Line | None:
        """Return the newest line, or None."""
        lines = self.lines()
        return lines[-1] if lines else None

    def find(self, trial_id: str) -> Line | None:
        """Return the line that decided a trial, or None while it is open."""
        return next((line for line in self.lines() if line.trial_id == trial_id), None)

    def verify(self) -> int:
        """Check the whole chain and return the number of lines.

        Raises:
            LedgerError: naming the first line that was changed or doesn't follow.
        """
        previous = GENESIS
        lines = self.lines()
        for expected, line in enumerate(lines, start=1):
            if line.number != expected or line.hash != line.computed_hash():
                raise LedgerError(f"ledger line {expected} was changed after it was written")
            if line.previous_hash != previous:
                raise LedgerError(f"ledger line {expected} doesn't follow from line {expected - 1}")
            previous = line.hash
        return len(lines)

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"

    def line(self, number: int) -> Line:
        """Return one line.

        Raises:
            LedgerError: it is missing, or isn't one.
        """
        try:
            return Line.model_validate_json(self._store.get(self._path(number)).data)
        except NotFound:
            raise LedgerError(f"ledger line {number} is missing") from None
        except pydantic.ValidationError:
            raise LedgerError(f"ledger line {number} is not a line: torn or changed") from None
