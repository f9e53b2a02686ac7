"""Columns of a batch: the tensors of its pairs side by side, one tensor for each input and each answer, row i of pair i.

Decides how pairs that look alike give their tensors to the batch and get them back; a batch of the old form, whose pairs have their own, stays
readable for ever. The mirror packs; the loop reads columns as they are, and takes a pair out only to write it alone. Knows no model. Pure, any
thread.
"""

from collections.abc import Sequence

from protos import records_pb2
from protos.errors import TensorError
from protos.tensors import Array, decode, quoted, to_record

#: Names, datatypes and sizes of a pair's tensors: pairs of one form can share columns.
Form = tuple[tuple[str, ...], ...]


def form_of(pair: records_pb2.LogitPair) -> Form | None:
    """Return what pairs must have in common to share columns; None for one whose tensors aren't one row each."""
    tensors = [*pair.inputs, pair.teacher.output]
    if pair.HasField("student"):
        tensors.append(pair.student.logits)
    form = []
    for tensor in tensors:
        shape = tuple(tensor.shape)
        if not shape or shape[0] != 1:
            return None
        form.append((tensor.name, tensor.datatype, *map(str, shape[1:])))
    return (("student",) if pair.HasField("student") else (), *form)


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


def rows_of(tensor: records_pb2.Tensor, num_pairs: int) -> Array:
    """Return a column as a read-only array [num_pairs, ...].

    Raises:
        TensorError: it has another number of rows, or its bytes don't fit its datatype and shape.
    """
    rows = decode(tensor.name, tensor.datatype, tensor.shape, tensor.raw)
    if rows.ndim == 0 or len(rows) != num_pairs:
        raise TensorError(
            f"column {quoted(tensor.name)} has shape {list(tensor.shape)[:8]}, its batch has {num_pairs} pairs",
            reason="wrong_shape",
        )
    return rows


def alone(batch: records_pb2.PairBatch, place: int) -> records_pb2.LogitPair:
    """Return one pair of a batch, of whichever form, with tensors of its own; raises TensorError where a column can't be read."""
    pair = records_pb2.LogitPair()
    pair.CopyFrom(batch.pairs[place])
    if not batch.HasField("columns"):
        return pair
    columns, num = batch.columns, len(batch.pairs)
    pair.ClearField("inputs")
    for tensor in columns.inputs:
        pair.inputs.append(_row(tensor, num, place))
    if columns.HasField("teacher_output"):
        pair.teacher.output.CopyFrom(_row(columns.teacher_output, num, place))
    if columns.HasField("student_logits"):
        pair.student.logits.CopyFrom(_row(columns.student_logits, num, place))
    return pair


def unpack(batch: records_pb2.PairBatch) -> list[records_pb2.LogitPair]:
    """Return every pair of a batch with tensors of its own; raises as `alone`."""
    return [alone(batch, place) for place in range(len(batch.pairs))]


def _joined(tensor: records_pb2.Tensor, num: int, raw: bytes) -> records_pb2.Tensor:
    return records_pb2.Tensor(name=tensor.name, datatype=tensor.datatype, shape=[num, *tensor.shape[1:]], raw=raw)


def _row(tensor: records_pb2.Tensor, num: int, place: int) -> records_pb2.Tensor:
    return to_record(tensor.name, rows_of(tensor, num)[place : place + 1])
