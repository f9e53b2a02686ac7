"""Labels: what callers say was true, joined with what student and teacher said of the same row.

Decides which feedback counts: the first on a row that the uniform arm took, said within a window after the row was answered. Both times are
gateways' (the record id's and the label's), so it doesn't matter when the loop reads either, nor which of the two it reads first: each waits for the
other, the newest so many. Only labelled rows say anything here: who sends feedback chooses them. Nothing is learned from a label. The intake tells it
of both; part of the checkpoint. One thread.
"""

import collections
import struct
from typing import Any

import numpy as np

from distill_loop.gates.agreement import ProgressiveAgreement
from distill_loop.telemetry import LABEL_ACCURACY, LABELS, LABELS_WAITING
from protos import records_pb2 as records
from protos.records import ARM_UNIFORM, ID_BYTES, is_record_id, minted_unix_ns

#: What becomes of a label. Read = all of these together + waiting.
OUTCOMES = ("joined", "no_estimate", "late", "repeated", "unmatched", "unusable")
#: What was said of a row, as it is kept: the student's class, the teacher's, and the probability with which the uniform arm takes one like it.
SAID = struct.Struct("<iid")
#: In place of it: the row's label came; or no estimate rests on the row, since only a trial took it, or the teacher answered the caller.
JOINED, NO_ESTIMATE = SAID.pack(-1, -1, 0.0), SAID.pack(-1, -1, 1.0)


class Labels:
    """Joins labels with pairs.

    Args:
        num_classes: of the model.
        window_s: time after a row was answered in which a label of it counts.
        max_records: rows, and labels, that wait for each other; the oldest go first.
        rows: newest joined rows that the estimates rest on.
    """

    def __init__(self, *, num_classes: int, window_s: float, max_records: int, rows: int) -> None:
        self._num_classes = num_classes
        self._window_ns = int(window_s * 1e9)
        self._max_records = max_records
        #: Both by record id, oldest first.
        self._rows: dict[bytes, bytes] = {}
        self._row_ids: collections.deque[bytes] = collections.deque()
        self._waiting: collections.OrderedDict[bytes, int] = collections.OrderedDict()
        self._student = ProgressiveAgreement(rows)
        self._teacher = ProgressiveAgreement(rows)
        self.counts = dict.fromkeys(OUTCOMES, 0)

    def observe_pair(self, pair: records.LogitPair, teacher_class: int, student_class: int | None) -> None:
        """Take note of a new pair; `student_class` is what served answered, None where no student did or the uniform arm didn't take it."""
        probability = next((arm.probability for arm in pair.arms if arm.arm == ARM_UNIFORM), None)
        record_id = pair.record_id
        if record_id in self._rows:
            return
        counts = student_class is not None and probability is not None
        self._rows[record_id] = SAID.pack(student_class, teacher_class, probability) if counts else NO_ESTIMATE
        self._row_ids.append(record_id)
        label_class = self._waiting.pop(record_id, None)
        if label_class is not None:
            self._join(record_id, label_class)
        if len(self._rows) > self._max_records:
            del self._rows[self._row_ids.popleft()]

    def observe_label(self, label: records.Label) -> bool:
        """Take a label in: join it with its row, or let it wait for it. Returns whether it is one that counts, as far as is known here."""
        record_id = label.record_id
        if not (label.known and 0 <= label.label_class < self._num_classes and is_record_id(record_id)):
            self._count("unusable")
            return False
        if label.time_unix_ns - minted_unix_ns(record_id) > self._window_ns:
            self._count("late")
            return False
        if record_id in self._waiting or self._rows.get(record_id) == JOINED:
            self._count("repeated")
            return False
        if record_id in self._rows:
            self._join(record_id, label.label_class)
        else:
            self._waiting[record_id] = label.label_class
            if len(self._waiting) > self._max_records:
                self._waiting.popitem(last=False)
                self._count("unmatched")
        return True

    def status(self, accepted: int | None = None) -> dict[str, Any] | None:
        """Return counts and estimates, and set the gauges; None where no label ever came.

        Args:
            accepted: labels that the stream took, as reports say, told beside what was read.
        """
        if not (self._waiting or accepted or any(self.counts.values())):
            return None
        LABELS_WAITING.set(len(self._waiting))
        body: dict[str, Any] = {"accepted": accepted, **self.counts, "waiting": len(self._waiting)}
        for who, shares in (("student", self._student), ("teacher", self._teacher)):
            estimate = shares.estimate()
            body[who] = vars(estimate) if estimate else None
            if estimate:
                for bound in ("estimate", "low", "high"):
                    LABEL_ACCURACY.labels(who, bound).set(getattr(estimate, bound))
        return body

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values; ids, and what goes with them, each joined to one byte string."""
        return {
            "rows": b"".join(self._rows),
            "said": b"".join(self._rows.values()),
            "waiting": b"".join(self._waiting),
            "classes": np.fromiter(self._waiting.values(), "<i4", len(self._waiting)).tobytes(),
            "counts": dict(self.counts),
            "student": self._student.state_dict(),
            "teacher": self._teacher.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        self._row_ids = collections.deque(_cut(state["rows"], ID_BYTES))
        self._rows = dict(zip(self._row_ids, _cut(state["said"], SAID.size), strict=True))
        classes = np.frombuffer(state["classes"], "<i4").tolist()
        self._waiting = collections.OrderedDict(zip(_cut(state["waiting"], ID_BYTES), classes, strict=True))
        self.counts.update(state["counts"])
        self._student.load_state_dict(state["student"])
        self._teacher.load_state_dict(state["teacher"])

    def _join(self, record_id: bytes, label_class: int) -> None:
        said, self._rows[record_id] = self._rows[record_id], JOINED
        if said == NO_ESTIMATE:
            self._count("no_estimate")
            return
        student_class, teacher_class, probability = SAID.unpack(said)
        self._student.observe(student_class == label_class, probability)
        self._teacher.observe(teacher_class == label_class, probability)
        self._count("joined")

    def _count(self, outcome: str) -> None:
        self.counts[outcome] += 1
        LABELS.labels(outcome).inc()


def _cut(joined: bytes, size: int) -> list[bytes]:
    return [joined[place : place + size] for place in range(0, len(joined), size)]
