"""A row on its way through the mirror: what a frame held, taken apart once, until it is a pair on the stream or waits in a spool.

Decides what of a record is looked at and how often: a field of a message costs more than it looks, so the bytes of a row's tensors are taken out once, and
rows of one form share the description of theirs. Knows neither rings nor teachers. Pure; any thread.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from protos import records_pb2 as records
from protos.records import ARM_PASS_THROUGH, ARM_UNIFORM
from protos.tensors import NUMPY_TYPES, Array, datatype_of, encode, from_record
from serving.shadow.strata import SERVED

Record = records.Sample | records.LogitPair


class Form:
    """Name, datatype and shape of a tensor of one row: what rows must have in common to be joined. Made by `form`, so that equal ones are one object.

    `num_bytes` are those of a row; None where they differ from row to row, or it is none (the first dimension is not 1).
    """

    __slots__ = ("datatype", "name", "num_bytes", "shape")

    def __init__(self, name: str, datatype: str, shape: tuple[int, ...]) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = list(shape)
        self.num_bytes: int | None = None
        if self.is_row and min(shape) >= 0 and datatype in NUMPY_TYPES:
            self.num_bytes = math.prod(shape) * NUMPY_TYPES[datatype].itemsize

    @property
    def is_row(self) -> bool:
        """Whether it is one row."""
        return self.shape[:1] == [1]

    def describes(self, tensor: records.Tensor) -> bool:
        """Whether a tensor looks like this."""
        return tensor.name == self.name and tensor.shape == self.shape and tensor.datatype == self.datatype

    def joined(self, raws: Sequence[bytes]) -> records.Tensor:
        """Return the tensor of several rows."""
        return records.Tensor(
            name=self.name, datatype=self.datatype, shape=(len(raws), *self.shape[1:]), raw=b"".join(raws)
        )


Forms = tuple[Form, ...]
form = functools.lru_cache(maxsize=4096)(Form)


def form_of(tensor: records.Tensor) -> Form:
    """Return what a tensor looks like."""
    return form(tensor.name, tensor.datatype, tuple(tensor.shape))


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
    joined = {}
    for place, one in enumerate(rows[0].forms):
        raws = [row.raws[place] for row in rows]
        if {len(raw) for raw in raws} == {one.num_bytes}:
            dtype = NUMPY_TYPES[one.datatype]
            joined[one.name] = np.frombuffer(b"".join(raws), dtype).reshape(len(rows), *one.shape[1:])
        else:
            joined[one.name] = np.concatenate([from_record(row.record.inputs[place]) for row in rows])
    return joined


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
    row = form(name, datatype_of(output_BC), (1, *output_BC.shape[1:]))
    size = row.num_bytes
    if size is None:
        return row, [encode(output_BC[place : place + 1]) for place in range(len(output_BC))]
    raw = encode(output_BC)
    return row, [raw[start : start + size] for start in range(0, size * len(output_BC), size)]
