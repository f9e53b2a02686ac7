"""Rows into batches: rows of different lengths are filled up to the longest, and arrays become the tensors that a net takes.

Decides what a row is filled with: its tensor's `padding`, or empty strings. Knows no student. Pure, any thread.
Shape suffix: B batch.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from protos.errors import RecordError
from protos.tensors import BYTES, Array, datatype_of, numpy_type, text_window
from registry.sections import TensorSpec


def stack(specs: Sequence[TensorSpec], rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return rows [1, ...] as one batch [n, ...] by name; n may be 0."""
    return {spec.name: _stacked(spec, [row[spec.name] for row in rows]) for spec in specs}


def _stacked(spec: TensorSpec, rows: list[Array]) -> Array:
    empty = b"" if spec.datatype == BYTES else spec.padding
    shapes = {row.shape[1:] for row in rows}
    if len(shapes) == 1:
        return np.concatenate(rows)
    sizes = (
        [max(0, size) for size in spec.shape[1:]] if not rows else [max(sizes) for sizes in zip(*shapes, strict=True)]
    )
    batch = np.full((len(rows), *sizes), empty, numpy_type(spec.datatype))
    for place, row in enumerate(rows):
        batch[place][tuple(slice(0, size) for size in row.shape[1:])] = row[0]
    return batch


def as_tensors(specs: Sequence[TensorSpec], inputs: Mapping[str, Array], text_bytes: int) -> tuple[Tensor, ...]:
    """Return a batch as a net takes it: in declared order, text as windows of `text_bytes` bytes."""
    return tuple(
        torch.from_numpy(
            text_window(inputs[spec.name], text_bytes) if spec.datatype == BYTES else np.array(inputs[spec.name])
        ).clone()  # torch's own memory is aligned: where numpy's lies would decide in which order some sums are made
        for spec in specs
    )


def check_row(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Check that a pair's inputs are one row of the model's.

    Raises:
        RecordError: they are not; such a row would stop every later batch, not only its own.
    """
    for spec in specs:
        array = inputs.get(spec.name)
        if array is None:
            raise RecordError(f"a pair has no input {spec.name!r}", "wrong_inputs")
        check_rows(spec, array, 1)


def check_rows(spec: TensorSpec, array: Array, num_rows: int) -> None:
    """Check that an array is so many rows of one of the model's inputs; raises as `check_row`."""
    wanted = (num_rows, *spec.shape[1:])
    if datatype_of(array) != spec.datatype or len(array.shape) != len(wanted):
        reason = "wrong_datatype" if datatype_of(array) != spec.datatype else "wrong_shape"
    elif any(want not in (-1, have) for want, have in zip(wanted, array.shape, strict=True)):
        reason = "wrong_shape"
    else:
        return
    raise RecordError(
        f"a pair's input {spec.name!r} is {datatype_of(array)} {list(array.shape)}, "
        f"[model] says {spec.datatype} {list(wanted)}",
        reason,
    )
