"""Tensors of a graph: that each one's bytes are there, as many as its dimensions say, and nowhere else than in the bundle.

Decides what an initializer, an attribute's tensor or a sparse one may be. Reads no values but the indices of sparse tensors and short lists of
integers, which are shapes. Pure but for the file under its reader; one thread.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from registry.graph_check.wire import (
    MANY_INTS,
    MANY_TEXTS,
    ONE_INT,
    ONE_TEXT,
    GraphError,
    Message,
    Reader,
    Schema,
    Span,
)

STRING, INT64 = 8, 7
#: Bits of an element, by TensorProto.DataType. Types that ONNX Runtime doesn't know are left out.
BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, INT64: 64, STRING: 128, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
FLOAT_DATA, INT32_DATA, STRING_DATA, INT64_DATA, RAW_DATA, DOUBLE_DATA, UINT64_DATA = 4, 5, 6, 7, 9, 10, 11
TYPED = (FLOAT_DATA, INT32_DATA, STRING_DATA, INT64_DATA, DOUBLE_DATA, UINT64_DATA)
#: The field that holds a type's values where they aren't raw; all others are in INT32_DATA.
TYPED_FIELD = {
    1: FLOAT_DATA, 14: FLOAT_DATA, INT64: INT64_DATA, STRING: STRING_DATA, 11: DOUBLE_DATA, 15: DOUBLE_DATA, 12: UINT64_DATA,
    13: UINT64_DATA,
}  # fmt: skip
COMPLEX = (14, 15)
#: Lists of numbers are packed, as every writer of ONNX does it.
TENSOR: Schema = {
    1: MANY_INTS,
    2: ONE_INT,
    3: ONE_TEXT,
    FLOAT_DATA: MANY_TEXTS,
    INT32_DATA: MANY_TEXTS,
    STRING_DATA: MANY_TEXTS,
    INT64_DATA: MANY_TEXTS,
    8: ONE_TEXT,
    RAW_DATA: ONE_TEXT,
    DOUBLE_DATA: MANY_TEXTS,
    UINT64_DATA: MANY_TEXTS,
    12: ONE_TEXT,
    13: MANY_TEXTS,
    14: ONE_INT,
    16: MANY_TEXTS,
}
ENTRY: Schema = {1: ONE_TEXT, 2: ONE_TEXT}
SPARSE: Schema = {1: ONE_TEXT, 2: ONE_TEXT, 3: MANY_INTS}
EXTERNAL = 1
#: Keys of an external tensor's entries.
EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum"})
#: A list of integers of at most this many is read: it may be a shape.
MAX_SHAPE = 64
MAX_DIMENSIONS = 64
_DIGITS = re.compile(r"[0-9]{1,19}")
_NOT_LAST = bytes(range(128, 256))


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What was found of one. integers: its values where they are a short list of INT64 inside the file."""

    name: str
    datatype: int
    dims: tuple[int, ...]
    integers: tuple[int, ...] | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes in memory."""
        return bytes_of(self.datatype, self.dims)


def bytes_of(datatype: int, dims: Sequence[int]) -> int:
    """Return the bytes of a tensor of this type and size."""
    return -(-math.prod(dims) * BITS[datatype] // 8)


class Tensors:
    """Checks the tensors of one file.

    Args:
        files: bytes of the files of the bundle that may hold tensors, by name.
    """

    def __init__(self, reader: Reader, *, max_bytes: int, files: Mapping[str, int]) -> None:
        self._reader = reader
        self._max_bytes = max_bytes
        self._files = files

    def check(self, span: Span) -> Tensor:
        """Check a tensor and return what it is; raises GraphError."""
        message = self._reader.message(span, TENSOR, "a tensor")
        name, datatype, dims = self._reader.text(message.span(8)), message.integer(2), tuple(message.ints(1))
        if message.span(3) is not None:
            raise _bad(name, "is a segment of another")
        self.check_size(name, datatype, dims)
        if message.integer(14) == EXTERNAL:
            self._check_external(name, message, bytes_of(datatype, dims), datatype)
            return Tensor(name, datatype, dims)
        if message.integer(14) or message.spans(13):
            raise _external(name, "says where it lies, and that it lies here")
        return self._check_values(name, datatype, dims, message)

    def check_sparse(self, span: Span) -> str:
        """Check a sparse tensor and return its name; raises GraphError."""
        message = self._reader.message(span, SPARSE, "a sparse tensor")
        values_at, indices_at, dims = message.span(1), message.span(2), tuple(message.ints(3))
        if values_at is None or indices_at is None or not dims:
            raise GraphError("has a sparse tensor without values, indices or dimensions", "bad_sparse")
        values = self.check(values_at)
        name, num_dims = values.name, len(dims)
        self.check_size(name, values.datatype, dims)
        if len(values.dims) != 1 or values.datatype == STRING or values.dims[0] > math.prod(dims):
            raise _sparse(name, f"has the values {list(values.dims)} of {list(dims)}")
        indices = self.check(indices_at)
        num_values = values.dims[0]
        flat = indices.dims == (num_values,)
        if indices.datatype != INT64 or not (flat or indices.dims == (num_values, num_dims)):
            raise _sparse(name, f"has the indices {list(indices.dims)} of {num_values} values")
        found = self._integers(self._reader.message(indices_at, TENSOR, "a tensor"))
        if found is None:
            raise _sparse(name, "has its indices elsewhere")
        bounds = np.array([math.prod(dims)] if flat else dims, np.uint64)
        if (found.view(np.uint64).reshape(-1, len(bounds)) >= bounds).any():  # what is negative is large here
            raise _sparse(name, f"has an index outside of {list(dims)}")
        return name

    def check_size(self, name: str, datatype: int, dims: Sequence[int]) -> None:
        """Check a declared type and size; raises GraphError."""
        if datatype not in BITS:
            raise _bad(name, f"has the type {datatype}, which is none")
        if len(dims) > MAX_DIMENSIONS or any(size < 0 for size in dims):
            raise _bad(name, f"has the dimensions {list(dims[:MAX_DIMENSIONS])}")
        if (num_bytes := bytes_of(datatype, dims)) > self._max_bytes:
            raise _bad(name, f"declares {num_bytes:,} bytes, bundles.max_tensor_bytes allows {self._max_bytes:,}")

    def _check_values(self, name: str, datatype: int, dims: tuple[int, ...], message: Message) -> Tensor:
        raw, typed = message.span(RAW_DATA), [field for field in TYPED if message.spans(field)]
        if raw is not None and raw.num_bytes and typed:
            raise _bad(name, "has its values twice")
        if raw is not None and not typed:
            have, want = raw.num_bytes, bytes_of(datatype, dims)
            if datatype == STRING:
                raise _bad(name, "has strings as raw bytes")
        else:
            field = TYPED_FIELD.get(datatype, INT32_DATA)
            if typed and typed != [field]:
                raise _bad(name, f"has its values in field {typed[0]}, not in {field}")
            have = sum(self._num_values(field, span) for span in message.spans(field))
            elements = math.prod(dims) * (2 if datatype in COMPLEX else 1)
            want = -(-elements * BITS[datatype] // 8) if BITS[datatype] < 8 else elements
        if have != want:
            raise _bad(name, f"has {have:,} bytes or values, its dimensions {list(dims)} say {want:,}")
        is_shape = datatype == INT64 and math.prod(dims) <= MAX_SHAPE
        integers = self._integers(message) if is_shape else None
        return Tensor(name, datatype, dims, None if integers is None else tuple(integers.tolist()))

    def _num_values(self, field: int, span: Span) -> int:
        if field == STRING_DATA:
            return 1
        if field in (FLOAT_DATA, DOUBLE_DATA):
            size = 4 if field == FLOAT_DATA else 8
            if span.num_bytes % size:
                raise GraphError("can't be parsed: a list of numbers ends amid one", "bad_protobuf")
            return span.num_bytes // size
        # A varint ends with the byte whose high bit isn't set.
        return len(self._reader.data[span.start : span.end].translate(None, _NOT_LAST))

    def _integers(self, message: Message) -> "np.ndarray[tuple[int], np.dtype[np.int64]] | None":
        """Return INT64 values that lie in the file; None where they lie elsewhere."""
        raw = message.span(RAW_DATA)
        if raw is not None and raw.num_bytes:
            return np.frombuffer(self._reader.data[raw.start : raw.end], "<i8")
        values = [value for span in message.spans(INT64_DATA) for value in self._reader.packed(span)]
        external = message.integer(14) == EXTERNAL
        return None if external else np.array(values, np.uint64).view(np.int64)

    def _check_external(self, name: str, message: Message, num_bytes: int, datatype: int) -> None:
        entries: dict[str, str] = {}
        for span in message.spans(13):
            entry = self._reader.message(span, ENTRY, "an external tensor's entry")
            key = self._reader.text(entry.span(1))
            if key in entries or key not in EXTERNAL_KEYS:
                raise _external(name, f"has the entry {key!r} twice, or one that isn't known")
            entries[key] = self._reader.text(entry.span(2))
        location = entries.get("location", "")
        if location not in self._files:
            raise _external(name, f"lies in {location!r}, which is not a file of the bundle that may hold tensors")
        if datatype == STRING or message.span(RAW_DATA) is not None or any(message.spans(field) for field in TYPED):
            raise _external(name, "has values here too, or strings elsewhere")
        numbers = [entries.get("offset", "0"), entries.get("length", str(num_bytes))]
        if not all(_DIGITS.fullmatch(number) for number in numbers):
            raise _external(name, f"has the offset {numbers[0]!r} and the length {numbers[1]!r}")
        offset, length = map(int, numbers)
        if length != num_bytes or offset + length > self._files[location]:
            raise _external(
                name, f"takes {num_bytes:,} bytes, and {length:,} at {offset:,} of {location} are not that or not there"
            )


def _bad(name: str, what: str) -> GraphError:
    return GraphError(f"has a tensor {name!r} that {what}", "bad_tensor")


def _external(name: str, what: str) -> GraphError:
    return GraphError(f"has a tensor {name!r} that {what}", "external_data")


def _sparse(name: str, what: str) -> GraphError:
    return GraphError(f"has a sparse tensor {name!r} that {what}", "bad_sparse")
