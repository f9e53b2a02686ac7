"""Plausible inputs: rows that any model with these inputs should be able to answer, for checks before there is traffic.

Decides that integers are 0 and 1 (an id that every vocabulary has, a mask), never all 0 in a row; that floats are around 0, pixels are any,
and texts are short. The same at every call. Knows no model. Pure, any thread.
"""

from collections.abc import Sequence

import numpy as np

from protos.tensors import BYTES, Array, numpy_type, strings
from registry.sections import TensorSpec

TEXTS = ("a", "what is this", "Grüße, 世界", "one two three four five six seven eight nine ten")
PIXEL_DIMENSIONS = 3


def plausible_rows(specs: Sequence[TensorSpec], num_rows: int, free_size: int) -> dict[str, Array]:
    """Return `num_rows` rows [n, ...] by input name.

    Args:
        free_size: size of every dimension that is -1, but for the batch.
    """
    random = np.random.default_rng(0)
    return {spec.name: _rows(spec, num_rows, free_size, random) for spec in specs}


def _rows(spec: TensorSpec, num_rows: int, free_size: int, random: np.random.Generator) -> Array:
    shape = (num_rows, *(free_size if size == -1 else size for size in spec.shape[1:]))
    if spec.datatype == BYTES:
        num = int(np.prod(shape))
        return strings(TEXTS[place % len(TEXTS)] for place in range(num)).reshape(shape)
    dtype = numpy_type(spec.datatype)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if spec.datatype == "UINT8" and len(shape) >= PIXEL_DIMENSIONS:
        return random.integers(0, 256, shape).astype(dtype)
    whole = random.integers(0, 2, shape).astype(dtype)
    whole.reshape(num_rows, -1)[:, 0] = 1
    return whole
