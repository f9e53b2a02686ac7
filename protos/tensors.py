"""Tensors on the wire: Open Inference Protocol datatypes, numpy arrays and `everstill.v1.Tensor`.

Decides how an array becomes bytes and back (little-endian, row-major). Knows nothing of requests, models or batching. Called
by every room; pure functions, safe from any thread.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from protos import records_pb2
from protos.errors import TensorError

Array = np.ndarray[Any, np.dtype[Any]]

#: Fixed-width datatypes of the Open Inference Protocol, as little-endian numpy types.
NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES: dict[np.dtype[Any], str] = {numpy_type: name for name, numpy_type in NUMPY_TYPES.items()}


def numpy_type(datatype: str) -> np.dtype[Any]:
    """Return the numpy type of an Open Inference Protocol datatype name.

    Raises:
        TensorError: the name is not a fixed-width datatype.
    """
    try:
        return NUMPY_TYPES[datatype]
    except KeyError:
        raise TensorError(
            f"datatype {datatype!r} is not served here",
            fix=f"Use one of {', '.join(NUMPY_TYPES)}",
            reason="wrong_datatype",
        ) from None


def datatype_of(array: Array) -> str:
    """Return the Open Inference Protocol name of an array's type."""
    try:
        return DATATYPES[array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype]
    except KeyError:
        raise TensorError(f"numpy type {array.dtype} has no datatype in the Open Inference Protocol") from None


def decode(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Array:
    """Return a read-only array over `raw`, without a copy.

    Raises:
        TensorError: unknown datatype, an impossible shape, or a byte count that the shape doesn't give.
    """
    dtype = numpy_type(datatype)
    if any(dimension < 0 for dimension in shape):
        raise TensorError(f"tensor {name!r} has a negative dimension in its shape {list(shape)}", reason="wrong_shape")
    expected_bytes = math.prod(shape) * dtype.itemsize
    if len(raw) != expected_bytes:
        raise TensorError(
            f"tensor {name!r} of datatype {datatype} and shape {list(shape)} takes {expected_bytes} bytes, got {len(raw)}",
            reason="wrong_bytes",
        )
    try:
        return np.frombuffer(raw, dtype).reshape(tuple(shape))
    except ValueError as error:  # more dimensions than numpy has, or sizes that overflow beside a zero
        raise TensorError(
            f"tensor {name!r} has an impossible shape of {len(shape)} dimensions: {error}", reason="wrong_shape"
        ) from None


def to_record(name: str, array: Array) -> records_pb2.Tensor:
    """Return an array as the message that the ring, the spool and the stream carry."""
    datatype = datatype_of(array)
    little_endian = array.astype(NUMPY_TYPES[datatype], copy=False)
    return records_pb2.Tensor(name=name, datatype=datatype, shape=array.shape, raw=little_endian.tobytes())


def from_record(tensor: records_pb2.Tensor) -> Array:
    """Return the read-only array of a record's tensor.

    Raises:
        TensorError: the message's bytes don't fit its datatype and shape.
    """
    return decode(tensor.name, tensor.datatype, tensor.shape, tensor.raw)
