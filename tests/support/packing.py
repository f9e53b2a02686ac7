"""Batches with columns for tests of their readers, made from whole pairs; the mirror makes its own from rows (serving/shadow/pairs.py)."""

from collections.abc import Sequence

from protos import records_pb2


def pack(pairs: Sequence[records_pb2.LogitPair]) -> records_pb2.PairBatch:
    """Return pairs of one form as a batch with columns. They are taken over: they lose their tensors."""
    batch = records_pb2.PairBatch()
    if not pairs:
        return batch
    first, num = pairs[0], len(pairs)
    columns = batch.columns
    for place, tensor in enumerate(first.inputs):
        columns.inputs.append(_joined(tensor, num, b"".join([pair.inputs[place].raw for pair in pairs])))
    columns.teacher_output.CopyFrom(
        _joined(first.teacher.output, num, b"".join([pair.teacher.output.raw for pair in pairs]))
    )
    has_student = first.HasField("student")
    if has_student:
        columns.student_logits.CopyFrom(
            _joined(first.student.logits, num, b"".join([pair.student.logits.raw for pair in pairs]))
        )
    for pair in pairs:
        pair.ClearField("inputs")
        pair.teacher.ClearField("output")
        if has_student:
            pair.student.ClearField("logits")
    batch.pairs.extend(pairs)
    return batch


def _joined(tensor: records_pb2.Tensor, num: int, raw: bytes) -> records_pb2.Tensor:
    return records_pb2.Tensor(name=tensor.name, datatype=tensor.datatype, shape=[num, *tensor.shape[1:]], raw=raw)
