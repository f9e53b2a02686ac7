"""The ledger of a model: one line for each decision, created if absent and chained by hash. The line is the decision.

Decides the order of decisions, that a trial is decided once, and that a line is only written on the lines that its writer had read. Knows
nothing of gates, nor what a line means beside whether it moves the live version (`registry.standing` does). The loop and an operator's
command append; anybody reads. The chain shows a line that was changed, taken out or put in; that the newest were cut off shows where
somebody else has seen them: see `registry.witnesses`. Any thread, any process.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any, Literal

import pydantic

from protos.errors import ConflictError, FormatError
from registry.pointers import Pointers
from registry.sections import Section
from registry.store import AlreadyExists, NotFound, ObjectStore, TooLarge

Kind = Literal[
    "bootstrap",
    "promote",
    "reject",
    "inconclusive",
    "rollback",
    "gap",
    "pin",
    "unpin",
    "freeze",
    "unfreeze",
    "observe",
    "floor",
    "alarm",
    "lineage",
    "signing",
]
GENESIS = "0" * 64
#: A line has some KiB, with a range in `learned_from` for each gap; more than this is somebody else's doing, and isn't read.
MAX_BYTES = 2**24
#: Keys that lines of versions before don't have: where they are unset, they are left out of the bytes and of the hash.
ADDED_LATER = frozenset({"learned_from", "teacher_version", "config_digest", "code_version"})


class LedgerError(FormatError):
    """A line that is missing, changed, or doesn't follow from the one before. `line` is its number, 0 where it has none."""

    def __init__(self, message: str, line: int, *, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.line = line


class LedgerMoved(ConflictError):
    """Somebody else has written a line since the one that a decision rests on."""


class Range(Section):
    """Messages of one partition: `first` is the first offset, `end` the one after the last, `stream` the identity of what they are of, empty where it isn't known."""

    topic: str
    partition: int
    first: int
    end: int
    stream: str = ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a process says of itself in each line that it writes. config_digest: see `registry.config.digest_of`."""

    config_digest: str | None = None
    code_version: str | None = None


class Line(Section):
    """One decision, or what decides nothing: a `gap` is what retention removed unread. Such a line's digest is the live version's, or empty.

    `hash` covers every other field that is set, `previous_hash` included.
    """

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
    learned_from: tuple[Range, ...] | None = None
    teacher_version: str | None = None
    config_digest: str | None = None
    code_version: str | None = None
    hash: str = ""

    def computed_hash(self) -> str:
        """Return the hash that this line's content has."""
        body = self.model_dump(mode="json", exclude={"hash", *self._unset()})
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the line as it is kept."""
        return self.model_dump_json(exclude=self._unset())

    @property
    def moves_live(self) -> bool:
        """Whether this decision makes `digest` the live version."""
        return self.kind in ("bootstrap", "promote", "rollback", "pin")

    def _unset(self) -> set[str]:
        return {name for name in ADDED_LATER if getattr(self, name) is None}


class Ledger:
    """The ledger of one model. Any thread, any process.

    Args:
        facts: written into each line.
    """

    _NAME = re.compile(r"\d{8}\.json")

    def __init__(self, store: ObjectStore, model: str, facts: Facts = Facts()) -> None:
        self._store = store
        self._folder = f"models/{model}/ledger"
        self._pointers = Pointers(store, model)
        self._facts = facts

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
        learned_from: tuple[Range, ...] | None = None,
        teacher_version: str | None = None,
        expected: int | None = None,
    ) -> Line:
        """Write a decision and return its line; a trial that has one keeps it, and that line is returned.

        Two writers at once are put in order: the later one's line follows the earlier one's, unless it is fenced.

        Args:
            expected: number of the newest line that the decision rests on. What moves the live version, or rests on what does, says it.

        Raises:
            LedgerMoved: there is a newer line than `expected`; nothing was written. LedgerError: the ledger is damaged.
        """
        while True:
            lines = self.uncut()
            for line in lines:
                if line.trial_id == trial_id and (expected is None or line.number <= expected):
                    return line
            if expected is not None and len(lines) != expected:
                raise LedgerMoved(
                    f"ledger line {len(lines)} was written meanwhile ({lines[-1].kind}, {lines[-1].actor})",
                    fix="Look again and decide again",
                )
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
                learned_from=learned_from,
                teacher_version=teacher_version,
                **dataclasses.asdict(self._facts),
            )
            line = Line.model_validate_json(line.model_dump_json())  # what readers will see: no tuple, no infinity
            line = line.model_copy(update={"hash": line.computed_hash()})
            try:
                self._store.create(self._path(line.number), line.to_json().encode())
            except AlreadyExists:
                continue
            return line

    def lines(self) -> list[Line]:
        """Return every line, oldest first.

        Raises:
            LedgerError: a line is missing in between, or isn't one.
        """
        return [self.line(number) for number in range(1, self._highest() + 1)]

    def uncut(self) -> list[Line]:
        """Return every line, where the live pointer names none that is gone: on a ledger that was cut nothing more is decided.

        Raises:
            LedgerError: as `lines`; or the line that the live pointer names isn't there.
        """
        live = self._pointers.live()  # read first: what it names was there before
        lines = self.lines()
        if live is not None and live.ledger_line > len(lines):
            raise LedgerError(
                f"ledger line {len(lines) + 1} is missing: the live pointer names line {live.ledger_line}",
                len(lines) + 1,
                fix="Lines were cut off; restore them from a backup",
            )
        return lines

    def newer(self, number: int) -> Iterator[Line]:
        """Yield the lines after this number; costs one look where there is none."""
        while True:
            number += 1
            try:
                yield self._read(number)
            except NotFound:
                return

    def last(self) -> Line | None:
        """Return the newest line, or None."""
        highest = self._highest()
        return self.line(highest) if highest else None

    def find(self, trial_id: str) -> Line | None:
        """Return the line that decided a trial, or None while it is open."""
        return next((line for line in self.lines() if line.trial_id == trial_id), None)

    def verify(self) -> int:
        """Check the whole chain and return the number of lines.

        Raises:
            LedgerError: naming the first line that was changed, doesn't follow, or was cut off under the live pointer.
        """
        previous = GENESIS
        lines = self.uncut()
        for expected, line in enumerate(lines, start=1):
            if line.number != expected or line.hash != line.computed_hash():
                raise LedgerError(f"ledger line {expected} was changed after it was written", expected)
            if line.previous_hash != previous:
                raise LedgerError(f"ledger line {expected} doesn't follow from line {expected - 1}", expected)
            previous = line.hash
        return len(lines)

    def kept_rows(self, line: Line) -> bytes:
        """Return the rows that a trial was decided on, as they were then.

        Raises:
            LedgerError: they are gone, or don't have the digest that the line names.
        """
        try:
            rows = self._store.get(self.rows_path(line.trial_id)).data
        except NotFound:
            wrong = "are gone"
        else:
            if hashlib.sha256(rows).hexdigest() == line.rows_digest:
                return rows
            wrong = "were changed: they don't have the digest that the line names"
        raise LedgerError(
            f"the kept rows of trial {line.trial_id}, ledger line {line.number}, {wrong}",
            line.number,
            fix="Restore them from a backup",
        )

    def rows_path(self, trial_id: str) -> str:
        """Return where a decided trial's rows are kept."""
        return f"{self._folder.removesuffix('ledger')}trials/{trial_id}.jsonl"

    def line(self, number: int) -> Line:
        """Return one line.

        Raises:
            LedgerError: it is missing, or isn't one.
        """
        try:
            return self._read(number)
        except NotFound:
            raise LedgerError(f"ledger line {number} is missing", number) from None

    def _highest(self) -> int:
        """Return the highest number. Only that is taken from the listing: one that races with writers may show a line and not the one before."""
        listed = self._store.list(self._folder)
        if foreign := [path for path in listed if not self._NAME.fullmatch(path.removeprefix(f"{self._folder}/"))]:
            raise LedgerError(f"{foreign[0]} is not a ledger line's name", 0)
        return max((int(pathlib.PurePosixPath(path).stem) for path in listed), default=0)

    def _read(self, number: int) -> Line:
        try:
            return Line.model_validate_json(self._store.get(self._path(number), max_bytes=MAX_BYTES).data)
        except TooLarge as error:
            raise LedgerError(f"ledger line {number} is not a line: {error.message}", number) from None
        except pydantic.ValidationError:
            raise LedgerError(f"ledger line {number} is not a line: torn or changed", number) from None

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"
