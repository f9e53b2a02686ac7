"""The batcher: joins requests that wait into one run of the student. Nobody waits for company.

Decides who runs with whom: a request that finds the student idle runs at once; requests that arrive during a run wait for its
end, and the first of them then leads those of its shape. The leader's own thread does the run; there is no thread of the
batcher. Called by gRPC threads.
"""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from protos.errors import EverstillError
from protos.tensors import Array
from serving.served import StudentAnswer
from serving.student.slot import Session, Slot
from serving.telemetry import BATCH_ROWS

Shape = tuple[tuple[str, tuple[int, ...]], ...]
#: Shapes remembered for warming the next version up.
RECENT_SHAPES = 8


class DeadlinePassed(EverstillError):
    """The caller's deadline passed while the request waited; it was not run."""


class _Waiting:
    """A request in the batcher: its rows, and what becomes of it."""

    __slots__ = ("answer", "deadline", "error", "extra", "inputs", "num_rows", "shape", "signal")

    def __init__(self, inputs: Mapping[str, Array], extra: Sequence[str], deadline: float | None) -> None:
        self.inputs = inputs
        self.extra = extra
        self.deadline = deadline
        self.num_rows = len(next(iter(inputs.values())))
        self.shape: Shape = tuple(sorted((name, array.shape[1:]) for name, array in inputs.items()))
        self.signal: threading.Event | None = None
        self.answer: StudentAnswer | None = None
        self.error: Exception | None = None

    @property
    def settled(self) -> bool:
        return self.answer is not None or self.error is not None


class Batcher:
    """Joins waiting requests in front of a slot.

    Args:
        max_batch: rows in one run; a single request with more runs alone.
        model: whose runs are counted.
    """

    def __init__(
        self, slot: Slot, *, max_batch: int, model: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._slot = slot
        self._max_batch = max_batch
        self._batch_rows = BATCH_ROWS.labels(model)
        self._clock = clock
        self._lock = threading.Lock()
        self._busy = False
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._recent: dict[tuple[int, Shape], None] = {}

    def run(
        self, inputs: Mapping[str, Array], *, extra: Sequence[str] = (), deadline: float | None = None
    ) -> StudentAnswer:
        """Return logits [batch, classes], the version that gave them, and further outputs.

        Args:
            inputs: arrays [batch, ...], checked against the model already.
            extra: names of further outputs; requests are joined whatever each of them wants.
            deadline: on this batcher's clock, in seconds.

        Raises:
            NoVersion, StudentError, DeadlinePassed: this request got no answer. Requests joined with one that the student
                can't run still get theirs.
        """
        mine = _Waiting(inputs, extra, deadline)
        with self._lock:
            leading = not self._busy
            if leading:
                self._busy = True
            else:
                mine.signal = threading.Event()
                self._queue.append(mine)
        if mine.signal is not None:
            mine.signal.wait()
        if not mine.settled:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error
        assert mine.answer is not None
        return mine.answer

    def recent_shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """Return the newest batch shapes that ran, by input name, for warming a version up."""
        with self._lock:
            return [{name: (num_rows, *rest) for name, rest in shape} for num_rows, shape in self._recent]

    def _lead(self, mine: _Waiting) -> None:
        """Run the leader's rows with those that fit, then pass the lead on."""
        with self._lock:
            batch = [mine, *self._take(mine)]
        try:
            self._execute(batch)
        finally:
            with self._lock:
                successor = self._queue.popleft() if self._queue else None
                self._busy = successor is not None
            for one in (successor, *batch[1:]):
                if one is not None and one.signal is not None:
                    one.signal.set()

    def _take(self, mine: _Waiting) -> list[_Waiting]:
        """Take the waiting requests of the leader's shape, in order, as far as they fit."""
        taken: list[_Waiting] = []
        rows = mine.num_rows
        for one in list(self._queue):
            if one.shape == mine.shape and rows + one.num_rows <= self._max_batch:
                taken.append(one)
                rows += one.num_rows
        for one in taken:
            self._queue.remove(one)
        return taken

    def _execute(self, batch: list[_Waiting]) -> None:
        now = self._clock()
        alive = []
        for one in batch:
            if one.deadline is not None and one.deadline <= now:
                one.error = DeadlinePassed(
                    "the deadline passed before the student ran", fix="Allow more time or send less at once"
                )
            else:
                alive.append(one)
        if not alive:
            return
        try:
            with self._slot.lease() as session:
                inputs = alive[0].inputs if len(alive) == 1 else _join([one.inputs for one in alive])
                answer = _answer(session, inputs, {name for one in alive for name in one.extra})
        except Exception as error:  # a supervision point: whatever a run dies of, everybody who waits for it is told
            if len(alive) == 1:
                alive[0].error = error
            else:
                for one in alive:  # one of them spoils the run: each alone
                    self._execute([one])
            return
        start = 0
        for one in alive:
            rows = slice(start, start + one.num_rows)
            own = {name: answer.extra[name][rows] for name in one.extra}
            one.answer = StudentAnswer(answer.logits_BC[rows], answer.version, own)
            start = rows.stop
        self._batch_rows.observe(start)
        self._remember(start, alive[0].shape)

    def _remember(self, num_rows: int, shape: Shape) -> None:
        key = (num_rows, shape)
        if key in self._recent:
            return
        with self._lock:
            self._recent[key] = None
            if len(self._recent) > RECENT_SHAPES:
                with contextlib.suppress(StopIteration):
                    del self._recent[next(iter(self._recent))]


def _answer(session: Session, inputs: Mapping[str, Array], extra: set[str]) -> StudentAnswer:
    if not extra:
        return StudentAnswer(session.run(inputs), session.version, {})
    logits_BC, further = session.run_with(inputs, sorted(extra))
    return StudentAnswer(logits_BC, session.version, further)


def _join(parts: list[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
