"""What ONNX Runtime calls a tensor's type, and the step between arrays of the protocol and arrays that a graph takes and gives.

Decides which graph types are served: every one that has a datatype in the protocol, strings included. Knows no session; pure,
any thread. Used by student and teacher.
"""

import numpy as np

from protos.errors import TensorError
from protos.tensors import BYTES, Array, strings

#: ONNX Runtime's names, and the datatype that callers use. What is missing here (bfloat16, sequences, maps) is not served.
DATATYPE_OF = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": BYTES,
}


def shape_of(dimensions: list[int | str | None]) -> list[int]:
    """Return a graph's shape as the protocol writes it: -1 is any size."""
    return [size if isinstance(size, int) else -1 for size in dimensions]


def as_text(name: str, array: Array) -> Array:
    """Return strings as a graph of type tensor(string) takes them.

    Raises:
        TensorError: one is not UTF-8.
    """
    flat = array.reshape(-1)
    texts: Array = np.empty(flat.shape, object)
    for place, one in enumerate(flat):
        try:
            texts[place] = one.decode()
        except UnicodeDecodeError:
            raise TensorError(
                f"input {name!r} is not UTF-8 in its string {place}", fix="Send UTF-8", reason="bad_string"
            ) from None
    return texts.reshape(array.shape)


def as_answer(array: Array) -> Array:
    """Return a graph's output as the protocol carries it: texts become bytes."""
    if array.dtype.kind in "OU":
        return strings(array.reshape(-1)).reshape(array.shape)
    return array
