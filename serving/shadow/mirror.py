"""The mirror: takes samples out of the rings, asks the teacher within the budget, and publishes pairs, trial rows and feedback.

Order of a step, and why: trial rows are evaluated first (they have the first call on the budget); a trial batch is published
before the pairs that settle it; the rings' read positions move last, once everything is in the stream or the spool, so a killed
mirror loses nothing, and counts nothing twice (`placing`). What can be placed nowhere is kept and tried again before anything new is read: the
rings then fill, and the workers drop and count. One thread; `set_trial` is called by another.
"""

import dataclasses
import time
from collections.abc import Callable

import structlog
from google.protobuf.message import DecodeError

from protos import records_pb2 as records
from protos.errors import UnavailableError
from protos.topics import LABELS
from serving.shadow.accounts import Rows
from serving.shadow.asking import Asking
from serving.shadow.budget import Budget
from serving.shadow.judging import Judging
from serving.shadow.message import Message
from serving.shadow.pairs import labels_of, messages_of
from serving.shadow.placing import Placing
from serving.shadow.reports import reports_of
from serving.shadow.rings import Rings
from serving.shadow.rows import Row, RowReader
from serving.shadow.strata import SERVED
from serving.shadow.trial import OpenTrial

#: Frames taken from the rings in one step, at least and at most: as many as a step of `STEP_S` can move, in seconds. And bytes at most.
FEWEST_FRAMES, MOST_FRAMES, STEP_S = 64, 1024, 0.2
STEP_BYTES = 2 * 2**20
#: Wait of a mirror that found less than a step takes, so that steps (each has a sync of the disk) don't become many small
#: ones beside a busy worker; and of one that could place nothing. In seconds.
GATHER_S, BLOCKED_S = 0.2, 0.5
#: A spool is drained for so long in each step, in seconds: what is new waits no longer than that.
DRAIN_S = 0.5


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who the mirror is and how its stream is laid out."""

    gateway: str
    model: str
    partitions: int
    report_interval_s: float
    max_message_bytes: int = 2**62


class Mirror:
    """Moves samples of one model from its workers' rings to the stream."""

    def __init__(
        self, identity: Identity, rings: Rings, budget: Budget, judging: Judging, asking: Asking, placing: Placing
    ) -> None:
        self._identity = identity
        self._rings = rings
        self._budget = budget
        self._judging = judging
        self._asking = asking
        self._placing = placing
        self._accounts = placing.accounts
        self._reader = RowReader()
        self._num_frames = FEWEST_FRAMES
        self._num_asked = asking.max_batch
        self._reported_at = time.monotonic()
        self._told_failure = ""
        self._log = structlog.get_logger(model=identity.model)

    def set_trial(self, trial: OpenTrial | None) -> None:
        """Run this trial from the next step on, or none."""
        self._judging.set_trial(trial)

    def step(self) -> int:
        """Move one lot of samples; returns how many, 0 where there was nothing to do or nothing could be placed."""
        if not self._placing.settle():
            drained = self._drain()  # a full disk: room comes from what stream and teacher take out of the spools
            if not self._placing.settle():
                return drained
        began = time.monotonic()
        read = self._rings.read(self._num_frames, STEP_BYTES)
        num = sum(len(payloads) for _, payloads in read)
        if num or self._rings.have_moved:
            messages, unanswered = self._moved(read)
            self._accounts.breaker_open.note(self._asking.breaker_spans())
            if not self._placing.place(messages, unanswered):
                return 0
            self._adapt(num, time.monotonic() - began)
        drained = self._drain()
        self._report()
        return num + drained

    def run(self, should_stop: Callable[[], bool], wait: Callable[[float], object]) -> None:
        """Step until told to stop."""
        while not should_stop():
            if self.step() < FEWEST_FRAMES:
                wait(BLOCKED_S if self._placing.is_blocked else GATHER_S)

    def empty(self, deadline_s: float) -> bool:
        """Empty the ring at a graceful stop, as far as the time allows; True where nothing is left in it."""
        end = time.monotonic() + deadline_s
        while self._rings.pending_bytes and time.monotonic() < end:
            if not self.step():
                break
        self._report(now=True)
        return not self._rings.pending_bytes

    def _moved(self, read: list[tuple[int, list[bytes]]]) -> tuple[list[Message], list[Row]]:
        """Return what payloads became: messages for the stream, and rows that wait for the teacher."""
        samples: list[records.Sample] = []
        labels: list[records.Label] = []
        for worker, payloads in read:
            strata = [self._sort(payload, samples, labels) for payload in payloads]
            self._accounts.take(worker, self._rings.by_worker[worker], strata)
        ways = self._judging.ways_of(samples)
        for reason, missing in ways.missing.items():
            self._accounts.miss(reason, missing)
        answered, unanswered = self._ask(ways.asking)
        messages = ways.trials + self._pair_messages(ways.settled + answered)
        return messages + labels_of(labels, self._identity.partitions), unanswered

    def _sort(self, payload: bytes, samples: list[records.Sample], labels: list[records.Label]) -> str:
        """Put a frame where it belongs, and return the stratum that it counts in; one that is no sample (another's worker) is passed over."""
        try:
            sample = records.Sample.FromString(payload)
        except DecodeError:
            self._accounts.miss("unreadable", [SERVED])
            self._log.error("what the ring held is not a sample", num_bytes=len(payload))
            return SERVED
        if sample.HasField("label"):
            labels.append(sample.label)
            return LABELS
        samples.append(sample)
        return sample.stratum or SERVED

    def _ask(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        answered, unanswered, refused = self._asking.ask(rows)
        if refused:
            self._accounts.miss("refused", [row.stratum for row in refused])
        return answered, unanswered

    def _pair_messages(self, rows: list[Row]) -> list[Message]:
        messages, oversized = messages_of(rows, self._identity.partitions, self._identity.max_message_bytes)
        if oversized:
            self._accounts.drop("oversized", Rows(row.stratum for row in oversized))
            self._log.error("pairs are larger than a message may be", rows=len(oversized))
        return messages

    def _adapt(self, num: int, took_s: float) -> None:
        """Take more in a step while steps are short and more waits; fewer where they are long, since a stop and a trial wait for their end."""
        if took_s > STEP_S:
            self._num_frames = max(FEWEST_FRAMES, self._num_frames // 2)
        elif took_s < STEP_S / 2 and num >= self._num_frames:
            self._num_frames = min(MOST_FRAMES, self._num_frames * 2)

    def _drain(self) -> int:
        """Move spooled work on, for a moment; returns how much. A spool that can't be read doesn't hold up the other."""
        moved, end, failed = 0, time.monotonic() + DRAIN_S, ""
        for drain in (self._placing.drain_messages, self._drain_pairs):
            try:
                while num := drain():
                    moved += num
                    if time.monotonic() > end:
                        break
            except UnavailableError as error:
                failed = str(error)
        if failed and failed != self._told_failure:  # once: many steps a second find it so
            self._log.error("the spool can't be read or written", error=failed)
        self._told_failure = failed
        return moved

    def _drain_pairs(self) -> int:
        """Ask about pairs that wait for the teacher: few at first, more while it answers; returns how many moved on."""
        if self._asking.breaker_open or self._placing.holds_messages:
            return 0
        pairs = self._placing.peek_pairs(self._num_asked)
        allowed = self._budget.reserve_up_to(len(pairs)) if pairs else 0
        if not allowed:
            return 0
        if allowed < len(pairs):
            pairs = self._placing.peek_pairs(allowed)
        answered, unanswered, refused = self._asking.ask([self._reader.waiting_row_of(pair) for pair in pairs])
        self._num_asked = self._asking.max_batch if unanswered else min(MOST_FRAMES, 2 * self._num_asked)
        if len(unanswered) == len(pairs):
            return 0
        self._placing.take_pairs(pairs)
        if refused:
            self._accounts.miss("refused", [row.stratum for row in refused])
        # Those without an answer queue up again, so that one shape that is always too slow doesn't hold up the others.
        placed = self._placing.place(self._pair_messages(answered), unanswered)
        if not placed and (self._placing.holds_messages or unanswered):
            return 0
        # All of these are placed: where something still waits, it is of an earlier step, and their leaving makes room for it.
        return len(pairs) - len(unanswered)

    def _report(self, *, now: bool = False) -> None:
        """Publish capture reports when they are due, and let go of what has waited too long."""
        if not now and time.monotonic() - self._reported_at < self._identity.report_interval_s:
            return
        self._reported_at = time.monotonic()
        self._placing.expire()
        self._accounts.breaker_open.note(self._asking.breaker_spans())
        self._placing.publish_reports(
            reports_of(self._identity.gateway, self._rings, self._accounts, self._placing.in_flight)
        )
