"""A checkpoint's bytes: tensors and plain values through torch's own format, read back as data only (`weights_only`)."""

import io
import pickle
from typing import Any

import torch

from protos.errors import FormatError


def dump(state: dict[str, Any]) -> bytes:
    """Return a state of tensors, lists, dicts, strings, bytes and numbers as bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def load(data: bytes) -> dict[str, Any]:
    """Return the state that `dump` was given.

    Raises:
        FormatError: torn, damaged, or holding something that isn't data.
    """
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise FormatError(
            f"the checkpoint can't be read: {str(error).splitlines()[0]}", fix="Restore an older one"
        ) from None
    return state
