"""Asking the teacher about rows, within what was reserved for them in the budget.

Decides what an answer, a silence and a refusal mean for a row; knows nothing of rings, spools or the stream. The mirror's thread.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from protos.errors import EverstillError, UnavailableError
from protos.records import ARM_TRIAL, ARM_UNIFORM
from protos.tensors import Array
from serving.shadow.budget import Budget
from serving.shadow.rows import Row, TeacherSaid, answers_of, inputs_of, lots_of
from serving.shadow.spans import Span
from serving.telemetry import BREAKER_OPEN, TEACHER_ROWS, TEACHER_SECONDS


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


class Asking:
    """Asks one model's teacher.

    Args:
        kind: what its output is, an OutputKind.
        breaker_open: whether its breaker is open now.
        breaker_spans: the newest spans in which it was, oldest first.
    """

    def __init__(
        self,
        teacher: Teacher,
        budget: Budget,
        *,
        model: str,
        kind: int,
        max_batch: int,
        breaker_open: Callable[[], bool] = lambda: False,
        breaker_spans: Callable[[], list[Span]] = list,
    ) -> None:
        self._teacher = teacher
        self._budget = budget
        self._model = model
        self._kind = kind
        self._breaker_open = breaker_open
        self.breaker_spans = breaker_spans
        self.max_batch = max_batch

    @property
    def breaker_open(self) -> bool:
        """Whether asking makes no sense now."""
        return self._breaker_open()

    def ask(self, rows: Sequence[Row]) -> tuple[list[Row], list[Row], list[Row]]:
        """Return rows with their answers, those to keep for later, and those that were refused. Every row is reserved in the budget already."""
        answered: list[Row] = []
        unanswered: list[Row] = []
        refused: list[Row] = []
        for lot in lots_of(rows, self.max_batch):
            try:
                self._ask_lot(lot)
                answered += lot
            except UnavailableError as error:
                attempts = getattr(error, "attempts", 1)
                if not attempts:
                    self._budget.refund(len(lot))
                self._count(lot, "away", attempts)
                unanswered += lot
            except EverstillError as error:
                self._count(lot, "refused", getattr(error, "attempts", 1))
                refused += lot
                structlog.get_logger(model=self._model).warning(
                    "the teacher refused samples", rows=len(lot), error=str(error)
                )
        BREAKER_OPEN.labels(self._model).set(self._breaker_open())
        return answered, unanswered, refused

    def _ask_lot(self, lot: list[Row]) -> None:
        """Ask about rows of one form and set their answers."""
        if not lot[0].forms:
            raise EverstillError("there is nothing to ask about", fix="The record is damaged")
        reserved = iter((True,))  # the first attempt is reserved already; each retry is a call of its own
        answer = self._teacher.ask(
            inputs_of(lot), before_attempt=lambda: next(reserved, False) or self._budget.reserve(len(lot))
        )
        if len(answer.output_BC) != len(lot):
            raise EverstillError(f"the teacher answered {len(answer.output_BC)} rows of {len(lot)}")
        self._count(lot, "answered", answer.attempts)
        TEACHER_SECONDS.labels(self._model).observe(answer.latency_s)
        form, raws = answers_of("output", answer.output_BC)
        version, latency_s, cost = answer.version, answer.latency_s, float(answer.attempts)
        for row, raw in zip(lot, raws, strict=True):
            row.teacher = TeacherSaid(version, self._kind, latency_s, cost, form, raw)

    def _count(self, lot: list[Row], outcome: str, attempts: int) -> None:
        num_uniform = sum(row.uniform for row in lot)
        for arm, num in ((ARM_UNIFORM, num_uniform), (ARM_TRIAL, len(lot) - num_uniform)):
            if num:
                TEACHER_ROWS.labels(arm, outcome, self._model).inc(num * attempts)
