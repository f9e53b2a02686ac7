"""Golden answers: a few inputs of a version and what its graph answered to them, as one npz without any pickle.

Decides the file's layout, and nothing of tolerances. Reads what numpy's `savez` writes and no more: members that aren't compressed, each as long as its
header says, of plain numbers; so nothing is unpickled, and nothing becomes larger than the file. The loop writes them into a bundle; who loads the version must get them
again. Arrays are `input:<name>` and `logits`; of a BYTES input the array is uint8, the tensor's bytes as on the wire, and
`shape:<name>` its shape. See docs/formats.md. Pure but for reading one file; any thread.
"""

import io
import math
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from protos.errors import FormatError, TensorError, plain
from protos.tensors import BYTES, Array, datatype_of, decode, encode
from registry.sections import TensorSpec

INPUT, SHAPE, LOGITS = "input:", "shape:", "logits"
SUFFIX = ".npy"
#: How a .npy file of version 1 begins.
MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([<>|][biuf][0-9]{1,2})', 'fortran_order': (True|False), 'shape': \(((?:[0-9]{1,18}(?:, ?|(?=\)))){0,32})\), \}\s*"
)
#: What reading an archive raises where it is none.
_UNREADABLE = (ValueError, EOFError, TypeError, NotImplementedError, RuntimeError, zipfile.BadZipFile)


def pack_golden(inputs: Mapping[str, Array], logits_BC: Array) -> bytes:
    """Return golden answers as a file's bytes: inputs [n, ...] by name, and the graph's own answers to them."""
    arrays: dict[str, Array] = {LOGITS: logits_BC}
    for name, array in inputs.items():
        if datatype_of(array) == BYTES:
            arrays[SHAPE + name] = np.array(array.shape, np.int64)
            arrays[INPUT + name] = np.frombuffer(encode(array), np.uint8)
        else:
            arrays[INPUT + name] = array
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack_golden(path: pathlib.Path, specs: Sequence[TensorSpec]) -> tuple[dict[str, Array], Array]:
    """Return golden inputs by name, and the logits that belong to them.

    Raises:
        FormatError: the file can't be read, or holds other tensors than these inputs and `logits`.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            arrays = _arrays(archive, path.stat().st_size, max_members=2 * len(specs) + 1)
    except (*_UNREADABLE, OSError) as error:
        raise FormatError(plain(f"golden answers can't be read: {error}")) from None
    strings = {SHAPE + spec.name for spec in specs if spec.datatype == BYTES}
    if set(arrays) != {LOGITS, *(INPUT + spec.name for spec in specs), *strings}:
        raise FormatError(plain(f"golden answers hold {', '.join(sorted(arrays))}: they are for other tensors"))
    inputs = {}
    for spec in specs:
        array = arrays[INPUT + spec.name]
        if spec.datatype == BYTES:
            try:
                array = decode(spec.name, BYTES, arrays[SHAPE + spec.name].tolist(), array.tobytes())
            except TensorError as error:
                raise FormatError(f"golden answers can't be read: {error.message}") from None
        inputs[spec.name] = array
    return inputs, arrays[LOGITS]


def _arrays(archive: zipfile.ZipFile, file_bytes: int, *, max_members: int) -> dict[str, Array]:
    """Return the arrays of an archive by name; raises what `_UNREADABLE` names."""
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(members) > max_members:
        raise ValueError(f"the archive holds {', '.join(names[:8])[:200]}, they are for other tensors")
    if len(set(names)) != len(names) or not all(name.endswith(SUFFIX) for name in names):
        raise ValueError(f"the archive holds {', '.join(names[:8])[:200]}")
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise ValueError("a member is compressed or encrypted")
    if (
        any(member.file_size != member.compress_size for member in members)
        or sum(one.file_size for one in members) > file_bytes
    ):
        raise ValueError("its members say that they are larger than the file")
    return {name.removesuffix(SUFFIX): _array(archive.read(name)) for name in names}


def _array(data: bytes) -> Array:
    """Return the array of a .npy file's bytes. Its header is a Python literal; only the one that numpy writes is read, and none is evaluated."""
    length = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 2], "little")
    start = len(MAGIC) + 2
    said = _HEADER.fullmatch(data[start : start + length])
    if not data.startswith(MAGIC) or said is None:
        raise ValueError("an array begins with another header than numpy's of numbers")
    dtype, rest = np.dtype(said[1].decode()), data[start + length :]
    shape = tuple(int(size) for size in said[3].split(b",") if size.strip())
    if math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"an array says {shape} of {dtype} and has {len(rest):,} bytes")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if said[2] == b"True" else "C").copy()
