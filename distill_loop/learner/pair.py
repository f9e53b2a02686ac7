"""A teacher's answer to one row, as the learner keeps it.

Decides what kind of teacher output can be learned from, and makes probabilities of it. Knows no stream and no model but the number
of classes. The intake calls it for every pair. Pure, any thread. Shape suffix: C classes.
"""

import dataclasses

import numpy as np

from protos import records_pb2 as records
from protos.errors import FormatError
from protos.tensors import BYTES, Array, datatype_of, from_record

#: How far a teacher's probabilities may be from summing to one; half-precision teachers round.
MAX_SUM_ERROR = 0.02


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
        return int(np.argmax(self.teacher_probabilities_C))


def from_pair_record(pair: records.LogitPair, num_classes: int) -> TrainingPair:
    """Return the training pair of a record.

    Raises:
        FormatError: no teacher output, of another width, not finite, or of a kind that can't be learned from.
    """
    if not pair.HasField("teacher"):
        raise FormatError("a pair has no teacher output")
    output_C = from_record(pair.teacher.output).reshape(-1).astype(np.float64)
    if output_C.shape != (num_classes,):
        raise FormatError(f"a teacher output has {output_C.size} classes, [model] says {num_classes}")
    if not np.isfinite(output_C).all():
        raise FormatError("a teacher output has NaN or infinity")
    if pair.teacher.kind == records.OUTPUT_KIND_LOGITS:
        output_C = np.exp(output_C - output_C.max())
    elif pair.teacher.kind != records.OUTPUT_KIND_PROBABILITIES:
        raise FormatError(f"a teacher output is of kind {pair.teacher.kind}, which this learner can't use")
    elif output_C.min() < 0 or abs(output_C.sum() - 1) > MAX_SUM_ERROR:
        raise FormatError(
            f"a teacher output is not probabilities: least {output_C.min():.3g}, sum {output_C.sum():.3g}",
            fix="Set teacher.kind to what the teacher answers",
        )
    probabilities_C = (output_C / output_C.sum()).astype(np.float32)
    inputs = {tensor.name: from_record(tensor) for tensor in pair.inputs}
    return TrainingPair(
        pair.record_id, pair.input_key, inputs, probabilities_C, pair.time_unix_ns, pair.teacher.version
    )


def _num_bytes(array: Array) -> int:
    texts = sum(map(len, array.reshape(-1))) if datatype_of(array) == BYTES else 0
    return array.nbytes + texts
