"""Fakes and records for tests of the shadow room: a ring with its spools, a teacher, a stream and students that obey the test."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from protos import columns
from protos import records_pb2 as records
from protos.errors import EverstillError, UnavailableError
from protos.records import ARM_TRIAL, ARM_UNIFORM, input_key, mint_record_id
from protos.tensors import Array, from_record, to_record
from registry.at_rest import AtRest
from serving.config import TeacherSection
from serving.shadow import ring as rings
from serving.shadow.asking import Asking
from serving.shadow.budget import Budget
from serving.shadow.journal import Journal
from serving.shadow.judging import Judging
from serving.shadow.message import Message, Publisher, StreamUnavailable
from serving.shadow.mirror import Identity, Mirror
from serving.shadow.placing import Placing
from serving.shadow.reports import reports_of
from serving.shadow.ring import Ring
from serving.shadow.rings import Rings
from serving.shadow.spool import Spool
from serving.shadow.trial import OpenTrial
from serving.telemetry import MISSING

NUM_CLASSES = 3
MAX_BATCH = 4
KEY = b"key"


def make_sample(
    number: int, *, arms: tuple[str, ...] = (ARM_UNIFORM,), trial_id: str = "", width: int = 4
) -> records.Sample:
    """Return a sample whose input is `number`; the student said class 0."""
    tensor = to_record("bytes", np.full((1, width), number, np.int32))
    sample = records.Sample(
        record_id=mint_record_id(), input_key=input_key([tensor]), stratum="served", inputs=[tensor], trial_id=trial_id
    )
    for arm in arms:
        sample.arms.add(arm=arm, probability=0.5)
    sample.student.version = "incumbent"
    sample.student.logits.CopyFrom(to_record("logits", np.eye(1, NUM_CLASSES, dtype=np.float32)))
    return sample


def make_trial_sample(number: int) -> records.Sample:
    """Return a sample that the trial arm alone took."""
    return make_sample(number, arms=(ARM_TRIAL,), trial_id="trial-1")


class FakeStudent:
    """Answers class 0, or class 1 where the input's first byte is among `differs`."""

    def __init__(self, version: str, differs: frozenset[int] = frozenset()) -> None:
        self.version = version
        self.digest = version
        self.num_runs = 0
        self._differs = differs

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Return logits."""
        self.num_runs += 1
        classes_B = [int(first in self._differs) for first in inputs["bytes"][:, 0]]
        return np.eye(NUM_CLASSES, dtype=np.float32)[classes_B]


def open_trial(differs: frozenset[int] = frozenset()) -> OpenTrial:
    """Return a trial whose students differ on these inputs."""
    return OpenTrial("trial-1", FakeStudent("incumbent"), FakeStudent("candidate", differs), rate=0.5, share=0.5)


class AwayError(UnavailableError):
    """A teacher that gave no answer in so many calls."""

    def __init__(self, attempts: int) -> None:
        super().__init__("away")
        self.attempts = attempts


@dataclasses.dataclass(frozen=True)
class FakeAnswer:
    """What the fake teacher says."""

    output_BC: Array
    attempts: int
    version: str = "teacher-1"
    latency_s: float = 0.001


class FakeTeacher:
    """Says class 2. Counts every row that it was asked about, in each attempt.

    `shut` is an open breaker: no call is made. `away` and `refuses` make it fail; `failures` makes each ask fail that many attempts first; `too_wide` is a width that it
    never answers in time.

    Args:
        num_classes: that it knows.
    """

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        self._num_classes = num_classes
        self.shut = False
        self.away = False
        self.refuses = False
        self.failures = 0
        self.too_wide: int | None = None
        self.asked: list[int] = []
        self.breaker_spans: list[tuple[int, int]] = []

    def ask(self, inputs: Mapping[str, Array], *, before_attempt: Callable[[], bool]) -> FakeAnswer:
        """Answer as the test says."""
        rows = inputs["bytes"]
        attempts = 0
        if self.shut:
            raise AwayError(0)
        while before_attempt():
            attempts += 1
            self.asked += [int(first) for first in rows[:, 0]]
            if self.refuses:
                raise EverstillError("refused")
            if self.away or rows.shape[1] == self.too_wide:
                raise AwayError(attempts)
            if attempts > self.failures:
                return FakeAnswer(np.eye(self._num_classes, dtype=np.float32)[[2] * len(rows)], attempts)
        raise AwayError(attempts)


class Crashed(BaseException):
    """The mirror's process was killed here."""


class Fuse:
    """Kills the mirror at the n-th place at which it changes something outside of its memory, where it is lit."""

    def __init__(self) -> None:
        self.left = 0

    def burn(self) -> None:
        """Pass such a place."""
        self.left -= 1
        if self.left == 0:
            raise Crashed


class FakeStream:
    """Keeps what was published; takes nothing while `away`, and all but the last message while `partly`."""

    def __init__(self, fuse: Fuse) -> None:
        self.away = False
        self.partly = False
        self.messages: list[Message] = []
        self._fuse = fuse

    def publish(self, messages: list[Message]) -> None:
        """Keep all, some or none."""
        self._fuse.burn()
        num_taken = 0 if self.away else len(messages) - self.partly
        self.messages += messages[:num_taken]
        self._fuse.burn()
        if num_taken < len(messages):
            raise StreamUnavailable("the stream is away", rest=messages[num_taken:])

    def of(self, kind: str) -> list[Message]:
        """Return the messages of one topic."""
        return [message for message in self.messages if message.kind == kind]

    def pairs(self) -> list[records.LogitPair]:
        """Return every published pair."""
        batches = [records.PairBatch.FromString(message.value) for message in self.of("pairs")]
        return [pair for batch in batches for pair in columns.unpack(batch)]

    def trial_rows(self) -> list[records.TrialRow]:
        """Return every published trial row."""
        return [row for message in self.of("trials") for row in records.TrialBatch.FromString(message.value).rows]


class Disk:
    """The disk of the spools, which the test can fill. room_bytes: what the segments of each spool may have together."""

    full = False
    room_bytes = 2**62


class FillableSpool(Spool):
    """A spool on such a disk."""

    disk: Disk
    fuse: Fuse

    def append(self, payloads: list[bytes]) -> None:
        """Keep payloads, unless the disk is full."""
        held = sum(path.stat().st_size for path in self._folder.glob("*.seg"))
        if payloads and (self.disk.full or held + sum(map(len, payloads)) > self.disk.room_bytes):
            raise UnavailableError("the disk is full")
        super().append(payloads)
        self.fuse.burn()

    def clear(self) -> None:
        """Remove what was taken."""
        self.fuse.burn()
        super().clear()


class FusedJournal(Journal):
    """A journal at whose commits the mirror may be killed."""

    fuse: Fuse

    def commit(self, *args: Any, **options: Any) -> None:
        """Commit."""
        self.fuse.burn()
        super().commit(*args, **options)
        self.fuse.burn()


class FusedRings(Rings):
    """Rings at whose advance the mirror may be killed."""

    fuse: Fuse

    def advance(self) -> None:
        """Accept what was read."""
        self.fuse.burn()
        super().advance()


class Shadow:
    """A mirror among fakes, with the workers' ends of its rings; `worker` is the first."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        num_workers: int = 1,
        spool_bytes: int = 2**20,
        report_interval_s: float = 1e9,
        max_message_bytes: int = 2**30,
        at_rest: AtRest | None = None,
    ) -> None:
        self._folder = folder
        self._spool_bytes = spool_bytes
        self._at_rest = at_rest
        self._identity = Identity("gateway-1", "m", 2, report_interval_s, max_message_bytes)
        self._paths = [folder / (f"ring{number}" if number else "ring") for number in range(num_workers)]
        for path in self._paths:
            rings.create(path, 2**18)
        self.workers = [Ring(path) for path in self._paths]
        self.worker = self.workers[0]
        self._num_handed = 0
        self.teacher = FakeTeacher()
        self.fuse = Fuse()
        self.stream = FakeStream(self.fuse)
        self.disk = Disk()
        self.journal: FusedJournal | None = None
        self.restart()

    def restart(self, *, at_rest: AtRest | None = None, publisher: Publisher | None = None, **budget: float) -> None:
        """Start a mirror on what the last one left, with the default budget or this one, other keys if any, and another stream than the fake one if
        any. Time stands still for the budget."""
        self._at_rest = at_rest or self._at_rest
        if self.journal is not None:
            self.journal.close()
        self.fuse.left = 0
        self.ring = FusedRings({number: Ring(path) for number, path in enumerate(self._paths)})
        self.ring.fuse = self.fuse
        self.journal = FusedJournal(self._folder, self._at_rest)
        self.journal.fuse = self.fuse
        self.spools: dict[str, Spool] = {}
        settings = TeacherSection.model_validate(
            {"max_calls_per_s": 1e6, "budget_burst": 1_000_000, "budget_reserve": 1, **budget}
        )
        reserve = Budget(settings, self.ring, clock=lambda: 0.0)
        self.placing = Placing(
            "m",
            self.ring,
            self.journal,
            publisher or self.stream,
            self._open_spool,
            max_message_bytes=self._identity.max_message_bytes,
        )
        self.accounts = self.placing.accounts
        self.mirror = Mirror(
            self._identity,
            self.ring,
            reserve,
            Judging(reserve, KEY),
            Asking(
                self.teacher,
                reserve,
                model="m",
                kind=records.OUTPUT_KIND_PROBABILITIES,
                max_batch=MAX_BATCH,
                breaker_spans=lambda: self.teacher.breaker_spans,
            ),
            self.placing,
        )

    @property
    def waiting_teacher(self) -> Spool:
        """The spool of pairs that wait for the teacher."""
        return self.spools["teacher"]

    @property
    def waiting_stream(self) -> Spool:
        """The spool of messages that wait for the stream."""
        return self.spools["stream"]

    def mirror_report(self) -> records.CaptureReport:
        """Return what the mirror would report now."""
        messages = reports_of("gateway-1", self.ring, self.accounts, self.placing.in_flight)
        return records.CaptureReport.FromString(messages[-1].value)

    def remove_last_worker(self) -> None:
        """Take the last worker's ring away, and start a mirror on the others."""
        self._paths.pop().unlink()
        self.workers.pop().close()
        self.restart()

    def hand_over(self, samples: list[records.Sample]) -> list[bytes]:
        """Put samples into the rings, in turn, and return their ids."""
        for sample in samples:
            worker = self.workers[self._num_handed % len(self.workers)]
            self._num_handed += 1
            worker.count_seen(1)
            arms = tuple(taken.arm for taken in sample.arms)
            assert worker.append(sample.SerializeToString(), stratum=sample.stratum, arms=arms)
        return [sample.record_id for sample in samples]

    def settle(self) -> None:
        """Step until nothing moves any more."""
        for _ in range(1000):
            if not self.mirror.step():
                return
        raise AssertionError("the mirror never came to rest")

    def _open_spool(self, name: str, position: Sequence[int] | None) -> Spool:
        spool = FillableSpool(
            self._folder / name,
            max_bytes=self._spool_bytes,
            retention_s=1e9,
            position=position,
            at_rest=self._at_rest,
        )
        spool.disk, spool.fuse = self.disk, self.fuse
        self.spools[name] = spool
        return spool


def open_rows(report: records.CaptureReport) -> dict[str, int]:
    """Return by stratum what a mirror's report leaves unaccounted for: nothing, where the equation closes."""
    left = {
        one.stratum: one.sampled - (one.published + one.missing + one.pending + one.spooled + one.dropped + one.gaps)
        for one in report.strata
    }
    return {stratum: num for stratum, num in left.items() if num}


def ids_of(shadow: Shadow) -> list[bytes]:
    """Return the record ids of the published pairs, in order."""
    return [pair.record_id for pair in shadow.stream.pairs()]


def missing_rows() -> float:
    """Return how many rows this process has counted as missing."""
    (metric,) = MISSING.collect()
    return sum(sample.value for sample in metric.samples if sample.name.endswith("_total"))


def uniform(num: int, first: int = 0) -> list[records.Sample]:
    """Return samples of the uniform arm."""
    return [make_sample(number) for number in range(first, first + num)]


def number_of(pair: records.LogitPair) -> int:
    """Return the number that a pair's input was made from."""
    return int(from_record(pair.inputs[0])[0, 0])
