"""A teacher's answer to one row, as the learner keeps it."""

import dataclasses

import numpy as np

from protos import records_pb2 as records
from protos.errors import FormatError
from protos.tensors import Array, from_record


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
        """Memory that the pair takes."""
        return self.teacher_probabilities_C.nbytes + sum(array.nbytes for array in self.inputs.values())

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
    output_C = from_record(pair.teacher.output).reshape(-1).astype(np.float32)
    if output_C.shape != (num_classes,):
        raise FormatError(f"a teacher output has {output_C.size} classes, [model] says {num_classes}")
    if not np.isfinite(output_C).all():
        raise FormatError("a teacher output has NaN or infinity")
    if pair.teacher.kind == records.OUTPUT_KIND_LOGITS:
        shifted_C = np.exp(output_C - output_C.max())
        output_C = shifted_C / shifted_C.sum()
    elif pair.teacher.kind != records.OUTPUT_KIND_PROBABILITIES:
        raise FormatError(f"a teacher output is of kind {pair.teacher.kind}, which this learner can't use")
    inputs = {tensor.name: from_record(tensor) for tensor in pair.inputs}
    return TrainingPair(pair.record_id, pair.input_key, inputs, output_C, pair.time_unix_ns, pair.teacher.version)
