"""The mirror's accounts: what became of every row that was handed over, by stratum, and how far rings and spools were read.

Decides what counts as what, so that for each stratum, at any moment,

    sampled = published + missing + pending + spooled + dropped + gaps

where pending rows are in a ring or in the mirror's hands. The worker says what was sampled (the ring's header), the accounts what came of it. They go
to the journal as JSON, whole, with each step; the metrics are told beside them. Feedback counts as a stratum of its own, `labels`, which is no part of
the equation above. One thread.
"""

import collections
import time
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from protos import records_pb2 as records
from protos.topics import LABELS
from serving.shadow.message import Message
from serving.shadow.ring import Ring
from serving.shadow.spans import OpenSpans
from serving.shadow.strata import SERVED
from serving.telemetry import DROPPED, GAPS, MISSING, PUBLISHED

#: What becomes of a row. `waiting_...` are those in the two spools; `inherited` are rows of a spool that no journal had counted.
PUBLISHED_ROWS, MISSING_ROWS, DROPPED_ROWS, INHERITED = "published", "missing", "dropped", "inherited"
WAITING = {"teacher": "waiting_teacher", "stream": "waiting_stream"}
FATES = (PUBLISHED_ROWS, MISSING_ROWS, DROPPED_ROWS, INHERITED, *WAITING.values())
Rows = collections.Counter[str]


class WorkerAccount:
    """What was taken of one worker's ring.

    base: rows that were handed over and taken before this account began; lost: numbers that never came out, and whose stratum isn't known yet.
    """

    def __init__(self, told: Mapping[str, Any] | None = None) -> None:
        told = told or {}
        self.epoch: int = told.get("epoch", 0)
        self.position: int = told.get("position", 0)
        self.expected: int = told.get("expected", 0)
        self.lost: int = told.get("lost", 0)
        self.base, self.taken, self.gaps = (Rows(told.get(name, {})) for name in ("base", "taken", "gaps"))

    def to_json(self) -> dict[str, Any]:
        """Return what the journal keeps."""
        return {name: value for name, value in vars(self).items() if value}

    def sampled(self, handed: Mapping[str, int]) -> Rows:
        """Return the rows that this account knows of: handed over, and not taken before it began."""
        return Rows({name: handed.get(name, 0) - self.base[name] for name in {**handed, **self.base}})

    def outstanding(self, handed: Mapping[str, int]) -> Rows:
        """Return the rows that were handed over and not taken; of these, `lost` ones will never be."""
        rows = self.sampled(handed)
        rows.subtract(self.taken)
        rows.subtract(self.gaps)
        return rows

    def pending_and_gaps(self, handed: Mapping[str, int]) -> tuple[Rows, Rows]:
        """Return the rows that are still in the ring, and those that are gone; lost ones of unknown stratum are told with the first that may be theirs."""
        pending, gaps, lost = self.outstanding(handed), Rows(self.gaps), self.lost
        for stratum in pending:
            num = min(lost, max(0, pending[stratum]))
            pending[stratum] -= num
            gaps[stratum] += num
            lost -= num
        return pending, gaps


def handed_of(ring: Ring) -> dict[str, int]:
    """Return what a worker says that it handed over, feedback too."""
    return {**{stratum: one.handed for stratum, one in ring.counts().items()}, LABELS: ring.labels}


class Accounts:
    """The accounts of one model.

    Args:
        told: what the journal holds, None where these begin.
    """

    def __init__(self, model: str, told: Mapping[str, Any] | None = None) -> None:
        told = told or {}
        self._model = model
        self.epoch: int = told.get("epoch") or time.time_ns()
        self.fates: dict[str, Rows] = {fate: Rows(told.get("fates", {}).get(fate, {})) for fate in FATES}
        self.workers = {int(number): WorkerAccount(one) for number, one in told.get("workers", {}).items()}
        self.messages = Rows(told.get("messages", {}))
        self.records = Rows(told.get("records", {}))
        self.spools: dict[str, list[int]] = dict(told.get("spools", {}))
        self.breaker_open = OpenSpans(told.get("breaker_open"))
        self.breaker_open.begin_again(time.time_ns())

    def to_json(self) -> dict[str, Any]:
        """Return what the journal keeps."""
        return {
            "epoch": self.epoch,
            "fates": self.fates,
            "workers": {number: one.to_json() for number, one in self.workers.items()},
            "messages": self.messages,
            "records": self.records,
            "spools": self.spools,
            "breaker_open": self.breaker_open.to_json(),
        }

    def follow(self, number: int, ring: Ring) -> None:
        """Go on with a worker's ring from where the accounts were, or begin with what is in it."""
        account = self.workers.setdefault(number, WorkerAccount())
        went_on = (
            account.epoch == ring.epoch and ring.position <= account.position <= ring.position + ring.pending_bytes
        )
        if went_on:
            ring.go_to(account.position, account.expected)
        else:
            self._begin_with(account, ring)
        account.epoch, account.position, account.expected = ring.epoch, ring.position, ring.expected

    def take(self, number: int, ring: Ring, strata: Iterable[str]) -> None:
        """Count what was read of a worker's ring since the last time: the strata of its frames."""
        account = self.workers[number]
        taken = Rows(strata)
        account.taken += taken
        if num_gaps := ring.expected - account.expected - taken.total():
            GAPS.labels(self._model).inc(num_gaps)
            account.lost += num_gaps
        account.position, account.expected = ring.position, ring.expected
        if account.lost and ring.told == account.expected:
            outstanding = account.outstanding(handed_of(ring))
            # Told twice, since a worker may write between: the ring is empty, and these are the lost ones.
            if ring.told == account.expected and outstanding.total() == account.lost:
                account.gaps += outstanding
                account.lost = 0

    def miss(self, reason: str, rows: Iterable[str]) -> None:
        """Count rows, by their strata, that the teacher gave no answer for, or that nobody judged."""
        counted = Rows(rows)
        self.fates[MISSING_ROWS] += counted
        MISSING.labels(reason, self._model).inc(counted.total())

    def drop(self, reason: str, rows: Rows) -> None:
        """Count rows that were lost after the hand-over."""
        self.fates[DROPPED_ROWS] += rows
        for stratum, num in rows.items():
            DROPPED.labels(stratum, reason, self._model).inc(num)

    def accept(self, messages: Iterable[Message]) -> None:
        """Count messages that the stream has accepted, each time that it did."""
        for message in messages:
            self.messages[message.kind] += 1
            self.records[message.kind] += message.num_records
            PUBLISHED.labels(message.kind, self._model).inc(message.num_records)

    def publish(self, rows: Rows) -> None:
        """Count rows that are on the stream."""
        self.fates[PUBLISHED_ROWS] += rows

    def keep(self, spool: str, rows: Rows) -> None:
        """Count rows that went to a spool."""
        self.fates[WAITING[spool]] += rows

    def release(self, spool: str, rows: Rows) -> None:
        """Count rows that left a spool; what becomes of them is counted beside. What nobody had counted there was found there."""
        waiting = self.fates[WAITING[spool]]
        if found := rows - waiting:
            self.inherit(spool, found)
        waiting.subtract(rows)

    def inherit(self, spool: str, rows: Rows) -> None:
        """Count rows that were found in a spool when the accounts began."""
        self.fates[INHERITED] += rows
        self.keep(spool, rows)

    def emptied(self, spool: str) -> None:
        """Count as dropped what a spool that is empty now should have held: its disk lost it."""
        waiting = self.fates[WAITING[spool]]
        if lost := +waiting:
            self.drop("damaged", lost)
            waiting.clear()

    def _begin_with(self, account: WorkerAccount, ring: Ring) -> None:
        """Let a ring's rows that are not taken yet be outstanding, and no other: it is another's, or a version before left it."""
        position, expected = ring.position, ring.expected
        while True:
            numbered, handed, told = ring.next_sequence, handed_of(ring), ring.told
            if ring.next_sequence == numbered:
                break
        outstanding = Rows(stratum_of(payload) for sequence, payload in ring.read(2**31) if sequence < numbered)
        outstanding[SERVED] += told - expected - outstanding.total()  # gaps that are still to be found
        ring.go_to(position, expected)
        account.lost = 0
        for stratum in {*handed, *outstanding, *account.taken, *account.gaps}:
            taken = account.taken[stratum] + account.gaps[stratum]
            account.base[stratum] = handed.get(stratum, 0) - outstanding[stratum] - taken


def stratum_of(payload: bytes) -> str:
    """Return the stratum that a frame counts in; one that can't be read counts where most rows do."""
    try:
        sample = records.Sample.FromString(payload)
    except DecodeError:
        return SERVED
    return LABELS if sample.HasField("label") else sample.stratum or SERVED
