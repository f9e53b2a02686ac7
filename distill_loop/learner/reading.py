"""How pairs are read from the stream: many at once, whether they have tensors of their own or share a batch's columns.

Decides which inputs are the model's. A record that can't be learned from becomes an error in its place, with a reason that is counted; a batch whose
columns can't be read is refused as a whole. Knows no net. The intake opens every message with it, the judge asks it for the students' answers. Pure,
any thread. Shape suffixes: N records, C classes.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from distill_loop.learner import batch
from distill_loop.learner.pair import KINDS, TrainingPair, probabilities, probabilities_of
from protos import columns
from protos import records_pb2 as records
from protos.errors import RecordError, TensorError
from protos.records import ID_BYTES
from protos.tensors import BYTES, NUMPY_TYPES, Array, from_record
from registry.sections import ModelSection, TensorSpec

Record = TypeVar("Record")
Value = TypeVar("Value")


class Opened:
    """A batch of pairs as it came, whose rows are looked at by their place.

    What its columns say of all rows is found once: `inputs` by name, the teacher's probabilities, None for a row that needs a look of its own, and the
    students' classes.

    Raises:
        RecordError, TensorError: its columns are not the model's, or not as long as the batch.
    """

    def __init__(self, told: records.PairBatch, model: ModelSection) -> None:
        self._batch = told
        self._alone: columns.Alone | None = None
        self.pairs = list(told.pairs)
        self.has_columns = told.HasField("columns")
        self.inputs: dict[str, Array] = {}
        self.teachers: list[Array | None] = [None] * len(self.pairs)
        self.tops: list[int] | None = None
        if self.has_columns and self.pairs:
            self._read_inputs(told.columns, model)
            self._read_teachers(told.columns, model)
            logits = columns.rows_of(told.columns.student_logits, len(self.pairs)) if _has_logits(told) else None
            if logits is not None and logits.size:
                self.tops = logits.reshape(len(logits), -1).argmax(axis=1).tolist()

    def alone(self, place: int) -> records.LogitPair:
        """Return one pair with tensors of its own; not to be changed."""
        if not self.has_columns:
            return self.pairs[place]
        if self._alone is None:
            self._alone = columns.Alone(self._batch)
        return self._alone.pair(place)

    def _read_inputs(self, told: records.Columns, model: ModelSection) -> None:
        num = len(self.pairs)
        arrays = {tensor.name: columns.rows_of(tensor, num) for tensor in told.inputs}
        _check_names([tensor.name for tensor in told.inputs], model)
        for spec in model.inputs:
            batch.check_rows(spec, arrays[spec.name], num)
            self.inputs[spec.name] = arrays[spec.name]

    def _read_teachers(self, told: records.Columns, model: ModelSection) -> None:
        if not told.HasField("teacher_output"):
            return
        output = columns.rows_of(told.teacher_output, len(self.pairs)).reshape(len(self.pairs), -1)
        kinds = {pair.teacher.kind for pair in self.pairs}
        if output.shape[1] == model.num_classes and len(kinds) == 1 and kinds <= set(KINDS):
            probabilities_NC, good_N = probabilities(output.astype(np.float64), kinds.pop())
            self.teachers = [
                row_C.copy() if good else None for row_C, good in zip(probabilities_NC, good_N.tolist(), strict=True)
            ]


#: One pair of an opened batch.
Row = tuple[Opened, int]


class PairReader:
    """Reads records of one model."""

    def __init__(self, model: ModelSection) -> None:
        self._model = model
        self._forms = {spec.name: _Form.of(spec) for spec in model.inputs}

    def open(self, told: records.PairBatch) -> Opened:
        """Return a batch as it is read by rows.

        Raises:
            RecordError: its columns can't be read.
        """
        opened = _told(lambda one: Opened(one, self._model), told)
        if isinstance(opened, RecordError):
            raise opened
        return opened

    def read(self, rows: Sequence[Row]) -> list[TrainingPair | RecordError]:
        """Return what each record teaches, or why it can't be learned from."""
        teachers = self._teachers(rows)
        return [self._pair(row, teacher) for row, teacher in zip(rows, teachers, strict=True)]

    def top_classes(self, rows: Sequence[Row]) -> list[int | RecordError]:
        """Return the top class of each record's student logits, or why there is none."""
        alike = _Alike(self._model.num_classes)
        tops: list[int | RecordError] = []
        for place, (opened, row) in enumerate(rows):
            if opened.has_columns:
                tops.append(opened.tops[row] if opened.tops is not None else _no_logits())
            else:
                logits = opened.pairs[row].student.logits
                tops.append(-1 if alike.add(place, logits) else _told(_top, logits))
        for place, top in zip(alike.places, alike.rows_NC().argmax(axis=1).tolist(), strict=True):
            tops[place] = top
        return tops

    def _pair(self, row: Row, teacher_C: Array | RecordError) -> TrainingPair | RecordError:
        opened, place = row
        pair = opened.pairs[place]
        record_id, input_key = pair.record_id, pair.input_key
        if len(record_id) != ID_BYTES or len(input_key) != ID_BYTES:
            return RecordError(f"a pair's record id or input key doesn't have {ID_BYTES} bytes", "bad_identity")
        inputs: dict[str, Array] | RecordError
        if opened.has_columns:  # a copy of each row, so that forgetting one frees it
            inputs = {name: rows_N[place : place + 1].copy() for name, rows_N in opened.inputs.items()}
        else:
            inputs = _told(self._inputs, pair)
        if isinstance(inputs, RecordError):
            return inputs
        if isinstance(teacher_C, RecordError):
            return teacher_C
        return TrainingPair(record_id, input_key, inputs, teacher_C, pair.time_unix_ns, pair.teacher.version)

    def _inputs(self, pair: records.LogitPair) -> dict[str, Array]:
        """Return a record's own inputs, which are the model's and no others; raises RecordError or TensorError."""
        inputs = {}
        for tensor in pair.inputs:
            name = tensor.name
            form = self._forms.get(name)
            if form is None:
                break
            inputs[name] = form.read(tensor)
        if len(inputs) != len(self._forms) or len(pair.inputs) != len(self._forms):
            _check_names([tensor.name for tensor in pair.inputs], self._model)
        return {name: inputs[name] for name in self._forms} if len(inputs) > 1 else inputs

    def _teachers(self, rows: Sequence[Row]) -> list[Array | RecordError]:
        """Return the teacher's probabilities float32 [classes] of each record, or why there are none.

        Those of one kind and form are made together; where one of them is not what it should be, it is looked at alone, for the reason.
        """
        found: list[Array | RecordError] = []
        alike = {kind: _Alike(self._model.num_classes) for kind in KINDS}
        for place, (opened, row) in enumerate(rows):
            if opened.has_columns:
                teacher_C = opened.teachers[row]
                found.append(teacher_C if teacher_C is not None else _told(self._teacher, rows[place]))
                continue
            teacher = opened.pairs[row].teacher
            mine = alike.get(teacher.kind)
            is_alike = mine is not None and mine.add(place, teacher.output)
            found.append(_LATER if is_alike else _told(self._teacher, rows[place]))
        for kind, mine in alike.items():
            probabilities_NC, good_N = probabilities(mine.rows_NC().astype(np.float64), kind)
            for place, row_C, good in zip(mine.places, probabilities_NC, good_N.tolist(), strict=True):
                found[place] = row_C.copy() if good else _told(self._teacher, rows[place])
        return found

    def _teacher(self, row: Row) -> Array:
        opened, place = row
        return probabilities_of(opened.alone(place), self._model.num_classes)


#: Stands for what is found together with others.
_LATER: Array = np.zeros(0, np.float32)


def _told(read: Callable[[Record], Value], record: Record) -> Value | RecordError:
    """Return what is read, or why nothing is."""
    try:
        return read(record)
    except RecordError as error:
        return error
    except TensorError as error:
        return RecordError(error.message, error.reason)


class _Alike:
    """Answers float32 of one width, collected so that all are looked at together."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._num_bytes = width * 4
        self._shapes = ([1, width], [width])
        self._raws: list[bytes] = []
        self.places: list[int] = []

    def add(self, place: int, tensor: records.Tensor) -> bool:
        """Take a record's own answer in where it has the common form."""
        raw = tensor.raw
        if len(raw) != self._num_bytes or tensor.datatype != "FP32" or tensor.shape not in self._shapes:
            return False
        self.places.append(place)
        self._raws.append(raw)
        return True

    def rows_NC(self) -> Array:
        """Return what was taken in, one row each."""
        return np.frombuffer(b"".join(self._raws), NUMPY_TYPES["FP32"]).reshape(-1, self._width)


@dataclasses.dataclass(frozen=True)
class _Form:
    """How an input looks on the wire, where all its sizes are known: num_bytes is 0 where they aren't."""

    spec: TensorSpec
    dtype: np.dtype[Any]
    shape: list[int]
    num_bytes: int

    @classmethod
    def of(cls, spec: TensorSpec) -> "_Form":
        shape = [1, *spec.shape[1:]]
        if spec.datatype == BYTES or min(shape) < 0:
            return cls(spec, np.dtype(object), shape, 0)
        dtype = NUMPY_TYPES[spec.datatype]
        return cls(spec, dtype, shape, math.prod(shape) * dtype.itemsize)

    def read(self, tensor: records.Tensor) -> Array:
        """Return the row; raises RecordError or TensorError."""
        raw = tensor.raw
        if self.num_bytes == len(raw) > 0 and tensor.datatype == self.spec.datatype and tensor.shape == self.shape:
            return np.frombuffer(raw, self.dtype).reshape(self.shape)
        array = from_record(tensor)
        batch.check_rows(self.spec, array, 1)
        return array


def _check_names(names: list[str], model: ModelSection) -> None:
    wanted = sorted(spec.name for spec in model.inputs)
    if sorted(names) != wanted:
        raise RecordError(f"a pair's inputs are {sorted(names)}, [model] says {wanted}", "wrong_inputs")


def _has_logits(told: records.PairBatch) -> bool:
    return told.columns.HasField("student_logits")


def _no_logits() -> RecordError:
    return RecordError("a pair's student logits are empty", "wrong_shape")


def _top(tensor: records.Tensor) -> int:
    logits_1C = from_record(tensor)
    if not logits_1C.size:
        raise _no_logits()
    return int(np.argmax(logits_1C.reshape(-1)))
