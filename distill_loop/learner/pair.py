"""A teacher's answer to one row, as the learner keeps it.

Decides what kinds of teacher output can be learned from, and makes probabilities of them, of many at once. Knows no stream and no model but the
number of classes. Pure, any thread. Shape suffixes: N records, C classes.
"""

import dataclasses

import numpy as np

from protos import records_pb2 as records
from protos.errors import RecordError
from protos.tensors import Array, from_record

#: How far a teacher's probabilities may be from summing to one; half-precision teachers round.
MAX_SUM_ERROR = 0.02
#: What can be learned from.
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
    probabilities_1C, good_1 = probabilities(output_C[None], pair.teacher.kind)
    if not good_1[0]:
        raise RecordError(
            f"a teacher output is not probabilities: least {output_C.min():.3g}, sum {output_C.sum():.3g}",
            "not_probabilities",
            fix="Set teacher.kind to what the teacher answers",
        )
    probabilities_C: Array = probabilities_1C[0]
    return probabilities_C


def probabilities(output_NC: Array, kind: int) -> tuple[Array, Array]:
    """Return float64 outputs of one of `KINDS` as float32 probabilities [N, C], and which of them can be believed [N]."""
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


def _num_bytes(array: Array) -> int:
    if array.dtype.kind != "O":
        return array.nbytes
    return array.nbytes + sum(map(len, array.reshape(-1)))
