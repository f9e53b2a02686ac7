"""A row on its way through the mirror: what a frame held, taken apart once, until it is a pair on the stream or waits in a spool.

Decides what of a record is looked at and how often: a field of a message costs more than it looks, so the bytes of a row's tensors are taken out once, and
rows of one form share the description of theirs. Knows neither rings nor teachers. Pure; any thread.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from protos import records_pb2 as records
from protos.records import ARM_PASS_THROUGH, ARM_UNIFORM
from protos.tensors import NUMPY_TYPES, Array, datatype_of, encode, from_record
from serving.shadow.strata import SERVED

Record = records.Sample | records.LogitPair


@dataclasses.dataclass(frozen=True)
class Form:
    """Name, datatype and shape of a tensor of one row: what rows must have in common to be joined."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int | None:
        """Bytes of a row; None where they differ from row to row, or it is none (the first dimension is not 1)."""
        if self.shape[:1] != (1,) or min(self.shape) < 0 or self.datatype not in NUMPY_TYPES:
            return None
        return math.prod(self.shape) * NUMPY_TYPES[self.datatype].itemsize

    def describes(self, tensor: records.Tensor) -> bool:
        """Whether a tensor looks like this."""
        return tensor.name == self.name and tensor.shape == self.shape and tensor.datatype == self.datatype

    def joined(self, raws: Sequence[bytes]) -> records.Tensor:
        """Return the tensor of several rows."""
        return records.Tensor(
            name=self.name, datatype=self.datatype, shape=(len(raws), *self.shape[1:]), raw=b"".join(raws)
        )


Forms = tuple[Form, ...]


def form_of(tensor: records.Tensor) -> Form:
    """Return what a tensor looks like."""
    return Form(tensor.name, tensor.datatype, tuple(tensor.shape))


@dataclasses.dataclass(slots=True)
class TeacherSaid:
    """The teacher's answer to one row."""

    version: str
    kind: int
    latency_s: float
    cost: float
    form: Form
    raw: bytes


@dataclasses.dataclass(slots=True, eq=False)
class Row:
    """One row. `forms` and `raws` are of its inputs; `logits` those of the student's answer, None while passing through."""

    record: Record
    stratum: str
    uniform: bool
    passed_through: bool
    forms: Forms
    raws: list[bytes]
    student: Form | None
    logits: bytes
    trial: records.TrialAnswer | None = None
    teacher: TeacherSaid | None = None

    @property
    def arrays_fit(self) -> bool:
        """Whether rows of this form can be joined byte by byte."""
        return all(form.num_bytes == len(raw) for form, raw in zip(self.forms, self.raws, strict=True))

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(map(len, self.raws)) + len(self.logits) + (len(self.teacher.raw) if self.teacher else 0)


class RowReader:
    """Takes records apart. It remembers the forms of the last one: most rows look like the one before."""

    def __init__(self) -> None:
        self._forms: Forms = ()
        self._student: Form | None = None

    def row_of(self, record: Record) -> Row:
        """Return a record's row."""
        tensors = record.inputs
        if len(tensors) != len(self._forms) or not all(map(Form.describes, self._forms, tensors)):
            self._forms = tuple(map(form_of, tensors))
        student, logits = None, b""
        if record.HasField("student"):
            tensor = record.student.logits
            if self._student is None or not self._student.describes(tensor):
                self._student = form_of(tensor)
            student, logits = self._student, tensor.raw
        arms = [taken.arm for taken in record.arms]
        return Row(
            record,
            record.stratum or SERVED,
            ARM_UNIFORM in arms,
            ARM_PASS_THROUGH in arms,
            self._forms,
            [tensor.raw for tensor in tensors],
            student,
            logits,
        )

    def waiting_row_of(self, pair: records.LogitPair) -> Row:
        """Return the row of a pair that waited for the teacher."""
        row = self.row_of(pair)
        row.trial = pair.trial if pair.HasField("trial") else None
        return row


def inputs_of(rows: Sequence[Row]) -> Mapping[str, Array]:
    """Return the inputs of rows of one form, joined.

    Raises:
        TensorError: bytes that don't fit their form.
    """
    if all(row.arrays_fit for row in rows):
        return {
            form.name: np.frombuffer(b"".join([row.raws[place] for row in rows]), NUMPY_TYPES[form.datatype]).reshape(
                len(rows), *form.shape[1:]
            )
            for place, form in enumerate(rows[0].forms)
        }
    return {
        form.name: np.concatenate([from_record(row.record.inputs[place]) for row in rows])
        for place, form in enumerate(rows[0].forms)
    }


def lots_of(rows: Sequence[Row], max_batch: int) -> list[list[Row]]:
    """Group rows whose inputs have the same names, datatypes and shapes, at most `max_batch` in one lot."""
    by_form: dict[Forms, list[Row]] = {}
    last: Forms | None = None
    same: list[Row] = []
    for row in rows:
        if row.forms is not last:
            last = row.forms
            same = by_form.setdefault(last, [])
        same.append(row)
    return [same[start : start + max_batch] for same in by_form.values() for start in range(0, len(same), max_batch)]


def answers_of(name: str, output_BC: Array) -> tuple[Form, list[bytes]]:
    """Return each row of the teacher's output, and what one looks like."""
    form = Form(name, datatype_of(output_BC), (1, *output_BC.shape[1:]))
    size = form.num_bytes
    if size is None:
        return form, [encode(output_BC[place : place + 1]) for place in range(len(output_BC))]
    raw = encode(output_BC)
    return form, [raw[start : start + size] for start in range(0, size * len(output_BC), size)]
