"""Golden answers: a few inputs of a version and what its graph answered to them, as one npz without any pickle.

Decides the file's layout, and nothing of tolerances. The loop writes them into a bundle; who loads the version must get them
again. Arrays are `input:<name>` and `logits`; of a BYTES input the array is uint8, the tensor's bytes as on the wire, and
`shape:<name>` its shape. See docs/formats.md. Pure but for reading one file; any thread.
"""

import io
import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from protos.errors import FormatError, TensorError
from protos.tensors import BYTES, Array, datatype_of, decode, encode
from registry.sections import TensorSpec

INPUT, SHAPE, LOGITS = "input:", "shape:", "logits"


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
        # Opened here: where the archive is torn, numpy forgets to close it.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise FormatError(f"golden answers can't be read: {error}") from None
    strings = {SHAPE + spec.name for spec in specs if spec.datatype == BYTES}
    if set(arrays) != {LOGITS, *(INPUT + spec.name for spec in specs), *strings}:
        raise FormatError(f"golden answers hold {', '.join(sorted(arrays))}: they are for other tensors")
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
