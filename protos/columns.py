"""Columns of a batch: the tensors of its pairs side by side, one tensor for each input and each answer, row i of pair i.

Decides how a pair gets its tensors back from the columns; a batch of the old form, whose pairs have their own, stays readable for ever. The mirror
fills them (`serving.shadow.pairs`); the loop reads columns as they are, and takes a pair out only to write it alone. Knows no model. Pure, any thread.
"""

from protos import records_pb2
from protos.errors import TensorError
from protos.tensors import BYTES, Array, decode, quoted, to_record


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


class Alone:
    """Gives pairs of one batch, of whichever form, tensors of their own. Each column is looked at once.

    Raises:
        TensorError: a column can't be read.
    """

    def __init__(self, batch: records_pb2.PairBatch) -> None:
        self._pairs = batch.pairs
        self._has_columns = batch.HasField("columns")
        columns, num = batch.columns, len(batch.pairs)
        self._inputs = [_Rows(tensor, num) for tensor in columns.inputs]
        self._teacher = _Rows(columns.teacher_output, num) if columns.HasField("teacher_output") else None
        self._student = _Rows(columns.student_logits, num) if columns.HasField("student_logits") else None

    def pair(self, place: int) -> records_pb2.LogitPair:
        """Return one pair."""
        pair = records_pb2.LogitPair()
        pair.CopyFrom(self._pairs[place])
        if not self._has_columns:
            return pair
        pair.ClearField("inputs")
        pair.inputs.extend([rows.row(place) for rows in self._inputs])
        if self._teacher is not None:
            pair.teacher.output.CopyFrom(self._teacher.row(place))
        if self._student is not None:
            pair.student.logits.CopyFrom(self._student.row(place))
        return pair


def alone(batch: records_pb2.PairBatch, place: int) -> records_pb2.LogitPair:
    """Return one pair of a batch, of whichever form, with tensors of its own; raises TensorError where a column can't be read."""
    return Alone(batch).pair(place)


def unpack(batch: records_pb2.PairBatch) -> list[records_pb2.LogitPair]:
    """Return every pair of a batch with tensors of its own; raises as `alone`."""
    each = Alone(batch)
    return [each.pair(place) for place in range(len(batch.pairs))]


class _Rows:
    """One column, row by row."""

    def __init__(self, tensor: records_pb2.Tensor, num: int) -> None:
        self._name, self._datatype = tensor.name, tensor.datatype
        self._rows = rows_of(tensor, num)

    def row(self, place: int) -> records_pb2.Tensor:
        """Return one row as a tensor of its own."""
        rows = self._rows[place : place + 1]
        if self._datatype == BYTES:
            return to_record(self._name, rows)
        return records_pb2.Tensor(name=self._name, datatype=self._datatype, shape=rows.shape, raw=rows.tobytes())
