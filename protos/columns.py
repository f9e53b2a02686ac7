"""Columns of a batch: the tensors of its pairs side by side, one tensor for each input and each answer, row i of pair i.

Decides how a pair gets its tensors back from the columns; a batch of the old form, whose pairs have their own, stays readable for ever. The mirror
fills them (`serving.shadow.pairs`); the loop reads columns as they are, and takes a pair out only to write it alone. Knows no model. Pure, any thread.
"""

from protos import records_pb2
from protos.errors import TensorError
from protos.tensors import Array, decode, quoted, to_record


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


def _row(tensor: records_pb2.Tensor, num: int, place: int) -> records_pb2.Tensor:
    return to_record(tensor.name, rows_of(tensor, num)[place : place + 1])
