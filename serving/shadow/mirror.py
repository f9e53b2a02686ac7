"""The mirror: takes samples out of the rings, asks the teacher within the budget, and publishes pairs and trial rows.

Order of a step, and why: trial rows are evaluated first (they have the first call on the budget); a trial batch is published
before the pairs that settle it; the rings' read positions move last, once everything is in the stream or the spool, so a killed
mirror loses nothing. What can be placed nowhere is kept and tried again before anything new is read: the rings then fill, and
the workers drop and count. One thread; `set_trial` is called by another.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import structlog
from google.protobuf.message import DecodeError

from protos import records_pb2 as records
from protos.errors import EverstillError, UnavailableError
from protos.records import ARM_PASS_THROUGH, ARM_TRIAL, ARM_UNIFORM
from protos.tensors import Array, from_record, to_record
from protos.topics import PAIRS, REPORTS, TRIALS, partition_of
from serving.shadow.budget import Budget
from serving.shadow.message import Message, Publisher
from serving.shadow.pairs import lots_of, pair_of
from serving.shadow.ring import Ring
from serving.shadow.rings import Rings
from serving.shadow.sampler import hold_to_pace, taken_by
from serving.shadow.spool import Spool
from serving.shadow.trial import OpenTrial
from serving.telemetry import (
    BREAKER_OPEN,
    GAPS,
    MISSING,
    PUBLISHED,
    RING_BYTES,
    SPOOL_BYTES,
    TEACHER_ROWS,
    TEACHER_SECONDS,
)

#: Frames taken from the rings in one step.
FRAMES_PER_STEP = 64
#: Wait of a mirror that found less than a step takes, so that steps (each has a sync of the disk) don't become many small
#: ones beside a busy worker; and of one that could place nothing. In seconds.
GATHER_S, BLOCKED_S = 0.2, 0.5


class Answer(Protocol):
    """What the mirror needs of a teacher's answer."""

    @property
    def output_BC(self) -> Array: ...
    @property
    def version(self) -> str: ...
    @property
    def latency_s(self) -> float: ...
    @property
    def attempts(self) -> int: ...


class Teacher(Protocol):
    """How the mirror asks."""

    def ask(self, inputs: Mapping[str, Array], *, before_attempt: Callable[[], bool]) -> Answer:
        """Answer rows, or raise UnavailableError (keep them) or another EverstillError (they can't be answered)."""
        ...


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who the mirror is, how its stream is laid out, and the key of this deployment's coins."""

    gateway: str
    model: str
    partitions: int
    teacher_kind: int
    max_batch: int
    report_interval_s: float
    key: bytes


class Mirror:
    """Moves samples of one model from its workers' rings to the stream.

    Args:
        waiting_teacher: spool of LogitPairs without the teacher's answer.
        waiting_stream: spool of messages that the stream didn't take, see `Message.to_spool`.
        breaker_open: whether the teacher's breaker is open now.
    """

    def __init__(
        self,
        identity: Identity,
        rings: Rings,
        budget: Budget,
        teacher: Teacher,
        publisher: Publisher,
        *,
        waiting_teacher: Spool,
        waiting_stream: Spool,
        breaker_open: Callable[[], bool] = lambda: False,
    ) -> None:
        self._identity = identity
        self._rings = rings
        self._budget = budget
        self._teacher = teacher
        self._publisher = publisher
        self._waiting_teacher = waiting_teacher
        self._waiting_stream = waiting_stream
        self._breaker_open = breaker_open
        self._trial: OpenTrial | None = None
        self._unplaced_messages: list[Message] = []
        self._unplaced_pairs: list[records.LogitPair] = []
        self._counts = {"taken": 0, "missing": 0}
        self._reported_at = time.monotonic()
        self._reported_gaps = 0
        self._stream_away = False
        self._log = structlog.get_logger(model=identity.model)

    def set_trial(self, trial: OpenTrial | None) -> None:
        """Run this trial from the next step on, or none."""
        self._trial = trial

    def step(self) -> int:
        """Move one lot of samples; returns how many, 0 where there was nothing to do or nothing could be placed."""
        if not self._place([], []):
            return 0
        frames = self._rings.read(FRAMES_PER_STEP)
        samples = self._parse([payload for _, payload in frames])
        self._counts["taken"] += len(samples)
        messages: list[Message] = []
        pairs, settled = self._split(samples, messages)
        answered, unanswered = self._ask(pairs)
        messages += self._pair_messages(settled + answered)
        placed = self._place(messages, unanswered)
        if placed:
            self._rings.advance()  # also past frames that could not be read, and what found its place only now
        drained = self._drain() if placed else 0
        self._report()
        return len(frames) + drained if placed else 0

    def run(self, should_stop: Callable[[], bool], wait: Callable[[float], object]) -> None:
        """Step until told to stop."""
        while not should_stop():
            if self.step() < FRAMES_PER_STEP:
                wait(BLOCKED_S if self._unplaced_messages or self._unplaced_pairs else GATHER_S)

    def empty(self, deadline_s: float) -> bool:
        """Empty the ring at a graceful stop, as far as the time allows; True where nothing is left in it."""
        end = time.monotonic() + deadline_s
        while self._rings.pending_bytes and time.monotonic() < end:
            if not self.step():
                break
        self._report(now=True)
        return not self._rings.pending_bytes

    def _parse(self, payloads: list[bytes]) -> list[records.Sample]:
        """Return samples; a payload that isn't one (another worker's) is counted and passed over."""
        samples = []
        for payload in payloads:
            try:
                samples.append(records.Sample.FromString(payload))
            except DecodeError:
                self._missing("unreadable", 1)
                self._log.error("what the ring held is not a sample", num_bytes=len(payload))
        return samples

    def _split(
        self, samples: list[records.Sample], messages: list[Message]
    ) -> tuple[list[records.LogitPair], list[records.LogitPair]]:
        """Return pairs that need the teacher (their rows reserved in the budget) and pairs that have its answer.

        Trial rows that were evaluated go to `messages` as one batch.
        """
        answers = self._judge(samples, messages)
        asking, settled = [], []
        for sample in samples:
            answer = answers.get(sample.record_id)
            pair = pair_of(sample, answer)
            if taken_by(ARM_PASS_THROUGH, sample):
                settled.append(pair)
            elif answer is not None or (taken_by(ARM_UNIFORM, sample) and self._budget.reserve(1)):
                asking.append(pair)
            elif taken_by(ARM_UNIFORM, sample):
                self._missing("budget", 1)
            elif sample.record_id not in answers:
                self._missing("not_judged", 1)
        return asking, settled

    def _judge(self, samples: list[records.Sample], messages: list[Message]) -> dict[bytes, records.TrialAnswer | None]:
        """Evaluate the trial's rows; returns what became of each: the answers that wait for the teacher's, or None.

        Every row that the uniform arm took is one of them, and keeps what was reserved for it also where the students agree: were it
        asked to reserve again, a short budget would leave the uniform arm more of the disagreements than there are. The trial arm
        keeps to the budget's pace.
        """
        answers: dict[bytes, records.TrialAnswer | None] = {}
        rows: list[records.TrialRow] = []
        trial = self._trial
        for sample in samples:
            if trial is None or not trial.is_new(sample):
                continue
            uniform, pace = taken_by(ARM_UNIFORM, sample), self._budget.pace()
            hold_to_pace(self._identity.key, sample, pace)
            if not sample.arms:
                answers[sample.record_id] = None
                self._missing("pace", 1)
                continue
            if not self._budget.reserve(1):
                continue
            try:
                row, answer = trial.evaluate(sample, trial.probability(pace))
            except Exception:  # a supervision point: one sample that can't be read must not stop all others
                self._budget.refund(1)
                self._log.exception("a trial row can't be read", trial_id=trial.trial_id)
                continue
            rows.append(row)
            answers[sample.record_id] = answer if uniform or not row.agree else None
            if row.agree and not uniform:
                self._budget.refund(1)
        if trial is not None and rows:
            messages.append(self._trial_message(trial, rows))
        return answers

    def _ask(self, pairs: list[records.LogitPair]) -> tuple[list[records.LogitPair], list[records.LogitPair]]:
        """Return pairs with their answers, and those to keep for later. Every pair is reserved in the budget already."""
        answered: list[records.LogitPair] = []
        unanswered: list[records.LogitPair] = []
        for lot in lots_of(pairs, self._identity.max_batch):
            try:
                self._ask_lot(lot)
                answered += lot
            except UnavailableError as error:
                attempts = getattr(error, "attempts", 1)
                if not attempts:
                    self._budget.refund(len(lot))
                self._count_teacher(lot, "away", attempts)
                unanswered += lot
            except EverstillError as error:
                self._count_teacher(lot, "refused", getattr(error, "attempts", 1))
                self._missing("refused", len(lot))
                self._log.warning("the teacher refused samples", rows=len(lot), error=str(error))
        BREAKER_OPEN.labels(self._identity.model).set(self._breaker_open())
        return answered, unanswered

    def _ask_lot(self, lot: list[records.LogitPair]) -> None:
        """Ask about pairs of one shape and set their answers."""
        inputs = {
            tensor.name: np.concatenate([from_record(pair.inputs[place]) for pair in lot])
            for place, tensor in enumerate(lot[0].inputs)
        }
        reserved = iter((True,))  # the first attempt is reserved already; each retry is a call of its own
        answer = self._teacher.ask(
            inputs, before_attempt=lambda: next(reserved, False) or self._budget.reserve(len(lot))
        )
        self._count_teacher(lot, "answered", answer.attempts)
        TEACHER_SECONDS.labels(self._identity.model).observe(answer.latency_s)
        for place, pair in enumerate(lot):
            pair.teacher.version = answer.version
            pair.teacher.kind = self._identity.teacher_kind  # type: ignore[assignment]
            pair.teacher.latency_s = answer.latency_s
            pair.teacher.cost = float(answer.attempts)
            pair.teacher.output.CopyFrom(to_record("output", answer.output_BC[place : place + 1]))

    def _place(self, messages: list[Message], unanswered: list[records.LogitPair]) -> bool:
        """Put messages into the stream (or its spool) and unanswered pairs into theirs; False where something found no place."""
        self._unplaced_messages += messages
        self._unplaced_pairs += unanswered
        try:
            if self._unplaced_pairs:
                self._waiting_teacher.append([pair.SerializeToString() for pair in self._unplaced_pairs])
                self._unplaced_pairs = []
            if self._unplaced_messages and not self._publish(self._unplaced_messages):
                self._waiting_stream.append([message.to_spool() for message in self._unplaced_messages])
            self._unplaced_messages = []
        except UnavailableError as error:
            self._log.error("samples find no place and wait", error=str(error), messages=len(self._unplaced_messages))
            return False
        model = self._identity.model
        SPOOL_BYTES.labels(model).set(self._waiting_teacher.num_bytes + self._waiting_stream.num_bytes)
        RING_BYTES.labels(model).set(self._rings.pending_bytes)
        return True

    def _publish(self, messages: list[Message]) -> bool:
        """Publish after what waits already, so that order is kept; False where the stream takes nothing."""
        try:
            while waiting := self._waiting_stream.peek(FRAMES_PER_STEP):
                self._send([Message.from_spool(payload) for payload in waiting])
                self._waiting_stream.take()
            self._send(messages)
        except UnavailableError as error:
            if not self._stream_away:  # once: many steps a second find it so
                self._log.warning("the stream is away, messages are spooled", error=str(error), messages=len(messages))
            self._stream_away = True
            return False
        if self._stream_away:
            self._log.info("the stream is back")
        self._stream_away = False
        return True

    def _send(self, messages: list[Message]) -> None:
        if messages:
            self._publisher.publish(messages)
        for message in messages:
            PUBLISHED.labels(message.kind, self._identity.model).inc(message.num_records)

    def _drain(self) -> int:
        """Move one lot of spooled work on; returns how much."""
        moved = 0
        if self._waiting_stream.num_bytes and self._publish([]):
            moved += 1
        try:
            if self._waiting_teacher.num_bytes and not self._breaker_open():
                moved += self._drain_pairs()
        except UnavailableError as error:
            self._log.error("the spool can't be read", error=str(error))
        return moved

    def _drain_pairs(self) -> int:
        """Ask about one lot of pairs that wait for the teacher; returns how many moved on."""
        payloads = self._waiting_teacher.peek(self._identity.max_batch)
        if payloads and not self._budget.reserve(len(payloads)):
            payloads = self._waiting_teacher.peek(1)  # what the budget leaves may be less than a lot, for ever
            if payloads and not self._budget.reserve(1):
                return 0
        answered, unanswered = self._ask([records.LogitPair.FromString(payload) for payload in payloads])
        if not payloads or len(unanswered) == len(payloads):
            return 0
        # Those without an answer queue up again, so that one shape that is always too slow doesn't hold up the others.
        if not self._place(self._pair_messages(answered), unanswered):
            return 0
        self._waiting_teacher.take()
        return len(payloads) - len(unanswered)

    def _pair_messages(self, pairs: list[records.LogitPair]) -> list[Message]:
        """Return one message for each partition: equal inputs always meet in one."""
        batches: dict[int, records.PairBatch] = {}
        for pair in pairs:
            partition = partition_of(pair.input_key, self._identity.partitions)
            batches.setdefault(partition, records.PairBatch()).pairs.append(pair)
        return [
            Message(PAIRS, partition, batch.SerializeToString(), num_records=len(batch.pairs))
            for partition, batch in batches.items()
        ]

    def _trial_message(self, trial: OpenTrial, rows: list[records.TrialRow]) -> Message:
        batch = records.TrialBatch(
            trial_id=trial.trial_id,
            incumbent_version=trial.incumbent.version,
            candidate_version=trial.candidate.version,
            rows=rows,
        )
        return Message(TRIALS, 0, batch.SerializeToString(), num_records=len(rows))

    def _missing(self, reason: str, rows: int) -> None:
        self._counts["missing"] += rows
        MISSING.labels(reason, self._identity.model).inc(rows)

    def _count_teacher(self, lot: list[records.LogitPair], outcome: str, attempts: int) -> None:
        for pair in lot:
            arm = ARM_UNIFORM if taken_by(ARM_UNIFORM, pair) else ARM_TRIAL
            TEACHER_ROWS.labels(arm, outcome, self._identity.model).inc(attempts)

    def _report(self, *, now: bool = False) -> None:
        """Publish each worker's capture report when it is due: denominators travel with the pairs."""
        if not now and time.monotonic() - self._reported_at < self._identity.report_interval_s:
            return
        self._reported_at = time.monotonic()
        GAPS.labels(self._identity.model).inc(self._rings.gaps - self._reported_gaps)
        self._reported_gaps = self._rings.gaps
        reports = [self._report_of(worker, ring) for worker, ring in self._rings]
        self._place([Message(REPORTS, 0, report.SerializeToString()) for report in reports], [])

    def _report_of(self, worker: int, ring: Ring) -> records.CaptureReport:
        """Return one worker's report; what is missing is told once, with the first."""
        report = records.CaptureReport(
            gateway=self._identity.gateway,
            worker=worker,
            epoch=ring.epoch,
            last_sequence=ring.next_sequence,
            teacher_calls=ring.teacher_rows,
            gaps=ring.gaps,
        )
        missing = self._counts["missing"] if worker == self._rings.first else 0
        report.strata.add(
            stratum="all", seen=ring.rows_seen, dropped=ring.dropped, missing=missing, pending=ring.pending_frames
        )
        return report
