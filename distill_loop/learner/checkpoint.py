"""A checkpoint's bytes: a digest, then tensors and plain values in torch's own format, read back as data only.

Layout: 8 bytes `EVERCKP1`, 32 bytes SHA-256 of what follows, then the file that `torch.save` writes. The digest finds what torch
wouldn't: a flipped bit in a weight. `weights_only` keeps a hostile file from being executed. Pure functions, any thread.
"""

import hashlib
import io
import pickle
from typing import Any

import torch

from protos.errors import FormatError

MAGIC = b"EVERCKP1"
_HEADER_BYTES = len(MAGIC) + hashlib.sha256().digest_size


def dump(state: dict[str, Any]) -> bytes:
    """Return a state of tensors, lists, dicts, strings, bytes and numbers as bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with buffer.getbuffer() as body:  # it may be large: one copy
        return b"".join((MAGIC, hashlib.sha256(body).digest(), body))


def load(data: bytes) -> dict[str, Any]:
    """Return the state that `dump` was given.

    Raises:
        FormatError: torn, damaged, or holding something that isn't data.
    """
    body = memoryview(data)[_HEADER_BYTES:]
    if data[: len(MAGIC)] != MAGIC:
        raise FormatError("the checkpoint doesn't begin as one", fix="Restore an older one")
    if data[len(MAGIC) : _HEADER_BYTES] != hashlib.sha256(body).digest():
        raise FormatError("the checkpoint is torn or damaged: its digest is wrong", fix="Restore an older one")
    try:
        with torch.serialization.safe_globals([bytes]):  # empty bytes are written as a call of it
            state: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        why = next(iter(str(error).splitlines()), "it is empty")
        raise FormatError(f"the checkpoint can't be read: {why}", fix="Restore an older one") from None
    return state
