"""A teacher's answer to one row, as the learner keeps it, and how it is read from a record.

Decides what can be learned from: which kinds of teacher output, and which inputs are the model's. Many records are read at once, as
columns; one that can't be learned from becomes an error in its place, with a reason that is counted. Knows no stream and no
net. The intake calls it for every message. Pure, any thread. Shape suffixes: N records, C classes.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from distill_loop.learner import batch
from protos import records_pb2 as records
from protos.errors import RecordError, TensorError
from protos.tensors import BYTES, NUMPY_TYPES, Array, from_record
from registry.sections import ModelSection, TensorSpec

#: How far a teacher's probabilities may be from summing to one; half-precision teachers round.
MAX_SUM_ERROR = 0.02
ID_BYTES = 16
Record = TypeVar("Record")
Value = TypeVar("Value")
KINDS = (records.OUTPUT_KIND_LOGITS, records.OUTPUT_KIND_PROBABILITIES)


@dataclasses.dataclass(frozen=True)
class TrainingPair:
    """inputs: arrays [1, ...] by name; teacher_probabilities_C: float32 [classes], sums to 1."""

    record_id: bytes
    input_key: bytes
    inputs: dict[str, Array]
    teacher_probabilities_C: Array
    time_unix_ns: int
    teacher_version: str

    @property
    def num_bytes(self) -> int:
        """Bytes of its arrays and ids; what Python adds for each object is not counted."""
        arrays = self.teacher_probabilities_C.nbytes + sum(map(_num_bytes, self.inputs.values()))
        return arrays + len(self.record_id) + len(self.input_key)

    @property
    def teacher_class(self) -> int:
        """The teacher's top class."""
        return int(self.teacher_probabilities_C.argmax())


class PairReader:
    """Reads records of one model."""

    def __init__(self, model: ModelSection) -> None:
        self._num_classes = model.num_classes
        self._specs = model.inputs
        self._forms = {spec.name: _Form.of(spec) for spec in model.inputs}

    def read(self, pairs: Sequence[records.LogitPair]) -> list[TrainingPair | RecordError]:
        """Return what each record teaches, or why it can't be learned from."""
        inputs = [_told(self._inputs, pair) for pair in pairs]
        teachers = self._teachers(pairs)
        return [
            rows
            if isinstance(rows, RecordError)
            else probabilities_C
            if isinstance(probabilities_C, RecordError)
            else TrainingPair(
                pair.record_id, pair.input_key, rows, probabilities_C, pair.time_unix_ns, pair.teacher.version
            )
            for pair, rows, probabilities_C in zip(pairs, inputs, teachers, strict=True)
        ]

    def top_classes(self, tensors: Sequence[records.Tensor]) -> list[int | RecordError]:
        """Return each answer's top class, or why it has none."""
        columns = _Columns("FP32", self._num_classes)
        tops: list[int | RecordError] = [
            -1 if columns.add(place, tensor) else _told(_top, tensor) for place, tensor in enumerate(tensors)
        ]
        for place, top in zip(columns.places, columns.rows_NC().argmax(axis=1).tolist(), strict=True):
            tops[place] = top
        return tops

    def _inputs(self, pair: records.LogitPair) -> dict[str, Array]:
        """Return a record's inputs, which are the model's and no others; raises RecordError or TensorError."""
        if len(pair.record_id) != ID_BYTES or len(pair.input_key) != ID_BYTES:
            raise RecordError(f"a pair's record id or input key doesn't have {ID_BYTES} bytes", "bad_identity")
        inputs = {}
        for tensor in pair.inputs:
            name = tensor.name
            form = self._forms.get(name)
            if form is None:
                break
            inputs[name] = form.read(tensor)
        if len(inputs) != len(self._forms) or len(pair.inputs) != len(self._forms):
            told = sorted(tensor.name for tensor in pair.inputs)
            raise RecordError(f"a pair's inputs are {told}, [model] says {sorted(self._forms)}", "wrong_inputs")
        return {spec.name: inputs[spec.name] for spec in self._specs} if len(inputs) > 1 else inputs

    def _teachers(self, pairs: Sequence[records.LogitPair]) -> list[Array | RecordError]:
        """Return the teacher's probabilities float32 [classes] of each record, or why there are none."""
        columns = {kind: _Columns("FP32", self._num_classes) for kind in KINDS}
        found: list[Array | RecordError] = [RecordError("a pair has no teacher output", "no_teacher")] * len(pairs)
        for place, pair in enumerate(pairs):
            teacher = pair.teacher
            column = columns.get(teacher.kind)
            if column is None or not column.add(place, teacher.output):
                found[place] = _told(self._teacher, pair)
        for kind, column in columns.items():
            if not column.places:
                continue
            probabilities_NC, good_N = _probabilities(column.rows_NC().astype(np.float64), kind)
            for place, row_C, good in zip(column.places, probabilities_NC, good_N.tolist(), strict=True):
                found[place] = row_C.copy() if good else _told(self._teacher, pairs[place])
        return found

    def _teacher(self, pair: records.LogitPair) -> Array:
        return probabilities_of(pair, self._num_classes)


def _told(read: Callable[[Record], Value], record: Record) -> Value | RecordError:
    """Return what is read, or why nothing is."""
    try:
        return read(record)
    except RecordError as error:
        return error
    except TensorError as error:
        return RecordError(error.message, error.reason)


class _Columns:
    """Answers of one datatype and width, collected so that all are looked at together."""

    def __init__(self, datatype: str, width: int) -> None:
        self._datatype = datatype
        self._dtype = NUMPY_TYPES[datatype]
        self._width = width
        self._num_bytes = width * self._dtype.itemsize
        self._shapes = ([1, width], [width])
        self._raws: list[bytes] = []
        self.places: list[int] = []

    def add(self, place: int, tensor: records.Tensor) -> bool:
        """Take an answer in where it has the common form."""
        raw = tensor.raw
        if len(raw) != self._num_bytes or tensor.datatype != self._datatype or tensor.shape not in self._shapes:
            return False
        self.places.append(place)
        self._raws.append(raw)
        return True

    def rows_NC(self) -> Array:
        """Return what was taken in, one row each."""
        return np.frombuffer(b"".join(self._raws), self._dtype).reshape(-1, self._width)


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
        batch.check_row((self.spec,), {self.spec.name: array})
        return array


def from_pair_record(pair: records.LogitPair, num_classes: int) -> TrainingPair:
    """Return the training pair of a record, whatever its inputs are.

    Raises:
        RecordError, TensorError: no teacher output, of another width, not finite, or of a kind that can't be learned from.
    """
    probabilities_C = probabilities_of(pair, num_classes)
    inputs = {tensor.name: from_record(tensor) for tensor in pair.inputs}
    return TrainingPair(
        pair.record_id, pair.input_key, inputs, probabilities_C, pair.time_unix_ns, pair.teacher.version
    )


def probabilities_of(pair: records.LogitPair, num_classes: int) -> Array:
    """Return the teacher's probabilities float32 [classes] of one record; raises as `from_pair_record`."""
    if not pair.HasField("teacher"):
        raise RecordError("a pair has no teacher output", "no_teacher")
    output_C = from_record(pair.teacher.output).reshape(-1).astype(np.float64)
    if output_C.shape != (num_classes,):
        raise RecordError(f"a teacher output has {output_C.size} classes, [model] says {num_classes}", "wrong_shape")
    if not np.isfinite(output_C).all():
        raise RecordError("a teacher output has NaN or infinity", "non_finite")
    if pair.teacher.kind not in KINDS:
        raise RecordError(
            f"a teacher output is of kind {pair.teacher.kind}, which this learner can't use", "wrong_kind"
        )
    probabilities_1C, good_1 = _probabilities(output_C[None], pair.teacher.kind)
    if not good_1[0]:
        raise RecordError(
            f"a teacher output is not probabilities: least {output_C.min():.3g}, sum {output_C.sum():.3g}",
            "not_probabilities",
            fix="Set teacher.kind to what the teacher answers",
        )
    probabilities_C: Array = probabilities_1C[0]
    return probabilities_C


def _probabilities(output_NC: Array, kind: int) -> tuple[Array, Array]:
    """Return float64 outputs as float32 probabilities [N, C], and which of them can be believed [N]."""
    good_N: Array = np.asarray(np.isfinite(output_NC).all(axis=1))
    if not good_N.all():
        output_NC = np.where(good_N[:, None], output_NC, 0.0)
    if kind == records.OUTPUT_KIND_LOGITS:
        output_NC = np.exp(output_NC - output_NC.max(axis=1, keepdims=True))
        sums_N = output_NC.sum(axis=1)
    else:
        sums_N = output_NC.sum(axis=1)
        good_N &= (output_NC.min(axis=1) >= 0) & (np.abs(sums_N - 1) <= MAX_SUM_ERROR)
        sums_N = np.where(good_N, sums_N, 1.0)
    return (output_NC / sums_N[:, None]).astype(np.float32), good_N


def _top(tensor: records.Tensor) -> int:
    logits_1C = from_record(tensor)
    if not logits_1C.size:
        raise RecordError("a pair's student logits are empty", "wrong_shape")
    return int(np.argmax(logits_1C.reshape(-1)))


def _num_bytes(array: Array) -> int:
    if array.dtype.kind != "O":
        return array.nbytes
    return array.nbytes + sum(map(len, array.reshape(-1)))
