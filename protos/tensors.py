"""Tensors on the wire: Open Inference Protocol datatypes, numpy arrays and `everstill.v1.Tensor`.

Decides how an array becomes bytes and back (little-endian, row-major; strings as in the protocol: a u32 length, then the bytes,
for each element). An array of strings is a numpy object array of `bytes`. Knows nothing of requests, models or batching. Called by
every room; pure functions, safe from any thread.
"""

import math
import struct
from collections.abc import Iterable, Sequence
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
#: Strings of any length: the one datatype without a fixed width.
BYTES = "BYTES"
KNOWN_DATATYPES = (*NUMPY_TYPES, BYTES)
#: What fills a window of text up; no byte has this value.
TEXT_PADDING = 256
#: As many as numpy has. Known before sizes are multiplied: a shape of a million sizes is a number that nobody can compute.
MAX_DIMENSIONS = 64
#: A name in a sentence is cut here: a caller may have made it up.
MAX_NAME_CHARACTERS = 64
_LENGTH = struct.Struct("<I")


def numpy_type(datatype: str) -> np.dtype[Any]:
    """Return the numpy type of an Open Inference Protocol datatype name; that of `BYTES` is object.

    Raises:
        TensorError: the name is not a datatype, or one that isn't served.
    """
    if datatype == BYTES:
        return np.dtype(object)
    try:
        return NUMPY_TYPES[datatype]
    except KeyError:
        raise TensorError(
            f"datatype {datatype[:32]!r} is not served here",
            fix=f"Use one of {', '.join(KNOWN_DATATYPES)}",
            reason="wrong_datatype",
        ) from None


def datatype_of(array: Array) -> str:
    """Return the Open Inference Protocol name of an array's type; an array of objects is one of strings."""
    if array.dtype.kind == "O":
        return BYTES
    try:
        return DATATYPES[array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype]
    except KeyError:
        raise TensorError(f"numpy type {array.dtype} has no datatype in the Open Inference Protocol") from None


def decode(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Array:
    """Return a read-only array over `raw`, without a copy (strings are copied out of it).

    Raises:
        TensorError: unknown datatype, an impossible shape, or a byte count that the shape doesn't give.
    """
    dtype = numpy_type(datatype)
    _check_shape(name, shape)
    if datatype == BYTES:
        return shaped(name, datatype, _split(name, raw), shape)
    expected_bytes = math.prod(shape) * dtype.itemsize
    if len(raw) != expected_bytes:
        raise TensorError(
            f"tensor {quoted(name)} of datatype {datatype} and shape {_few(shape)} takes {_many(expected_bytes)} bytes, "
            f"got {len(raw)}",
            reason="wrong_bytes",
        )
    return _reshaped(name, np.frombuffer(raw, dtype), shape)


def encode(array: Array) -> bytes:
    """Return an array's bytes, as `decode` reads them.

    Raises:
        TensorError: its type has no datatype, or it holds something else than strings.
    """
    datatype = datatype_of(array)
    if datatype == BYTES:
        return b"".join(_LENGTH.pack(len(one)) + one for one in map(_as_bytes, array.reshape(-1)))
    return array.astype(NUMPY_TYPES[datatype], copy=False).tobytes()


def strings(texts: Iterable[str | bytes]) -> Array:
    """Return a BYTES array [n] of texts, those of type str as UTF-8."""
    encoded = [_as_bytes(one) for one in texts]
    array: Array = np.empty(len(encoded), object)
    array[:] = encoded
    return array


def text_window(texts: Array, length: int) -> Array:
    """Return texts as windows of bytes, int32 [B, length]: the first `length` bytes of each, then 256.

    Args:
        texts: BYTES, [B] or [B, 1].
    """
    windows = np.full((len(texts), length), TEXT_PADDING, np.int32)
    for row, text in enumerate(texts.reshape(len(texts))):
        head = text[:length]
        windows[row, : len(head)] = np.frombuffer(head, np.uint8)
    return windows


def _check_shape(name: str, shape: Sequence[int]) -> None:
    if len(shape) > MAX_DIMENSIONS:
        raise TensorError(
            f"tensor {quoted(name)} has an impossible shape of {len(shape)} dimensions", reason="wrong_shape"
        )
    if min(shape, default=0) < 0:
        raise TensorError(
            f"tensor {quoted(name)} has a negative dimension in its shape {_few(shape)}", reason="wrong_shape"
        )


def quoted(name: str) -> str:
    """Return a name as a sentence quotes it."""
    return repr(name if len(name) <= MAX_NAME_CHARACTERS else name[:MAX_NAME_CHARACTERS] + "...")


def _few(shape: Sequence[int]) -> str:
    """Return a shape as a sentence quotes it; nobody needs its hundredth dimension."""
    return str(list(shape)) if len(shape) <= 8 else f"[{', '.join(map(str, shape[:8]))}, ...]"


def _many(number: int) -> str:
    return str(number) if number < 2**63 else "more than 2**63"


def _as_bytes(one: object) -> bytes:
    if isinstance(one, bytes):
        return one
    if isinstance(one, str):
        return one.encode()
    raise TensorError(f"an array of strings holds {type(one).__name__}", fix="Give str or bytes")


def _split(name: str, raw: bytes) -> Array:
    """Return the strings of a BYTES tensor's raw content, in one row."""
    parts: list[bytes] = []
    start = 0
    while start < len(raw):
        end = start + _LENGTH.size
        if end <= len(raw):
            end += _LENGTH.unpack_from(raw, start)[0]
        if end > len(raw) or end - start < _LENGTH.size:
            raise TensorError(
                f"tensor {quoted(name)} of datatype BYTES ends inside its string {len(parts)}",
                fix="Send a 4-byte little-endian length and that many bytes for each",
                reason="wrong_bytes",
            )
        parts.append(raw[start + _LENGTH.size : end])
        start = end
    array: Array = np.empty(len(parts), object)
    array[:] = parts
    return array


def shaped(name: str, datatype: str, flat: Array, shape: Sequence[int]) -> Array:
    """Return the values of a tensor in its shape.

    Raises:
        TensorError: the shape is impossible, or takes another number of values.
    """
    _check_shape(name, shape)
    if math.prod(shape) != len(flat):
        raise TensorError(
            f"tensor {quoted(name)} of datatype {datatype} and shape {_few(shape)} takes {_many(math.prod(shape))} values, "
            f"got {len(flat)}",
            reason="wrong_bytes",
        )
    return _reshaped(name, flat, shape)


def _reshaped(name: str, flat: Array, shape: Sequence[int]) -> Array:
    try:
        return flat.reshape(tuple(shape))
    except (ValueError, OverflowError) as error:  # sizes that overflow beside a zero
        raise TensorError(
            f"tensor {quoted(name)} has an impossible shape {_few(shape)}: {error}", reason="wrong_shape"
        ) from None


def to_record(name: str, array: Array) -> records_pb2.Tensor:
    """Return an array as the message that the ring, the spool and the stream carry."""
    return records_pb2.Tensor(name=name, datatype=datatype_of(array), shape=array.shape, raw=encode(array))


def from_record(tensor: records_pb2.Tensor) -> Array:
    """Return the read-only array of a record's tensor.

    Raises:
        TensorError: the message's bytes don't fit its datatype and shape.
    """
    return decode(tensor.name, tensor.datatype, tensor.shape, tensor.raw)
