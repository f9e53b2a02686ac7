"""Redaction: what the configuration declares must not leave the worker is dropped, zeroed or hashed before the hand-over.

Decides on captured copies only; what the student answered is untouched. Pure; any thread.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from protos.errors import ConfigurationError
from protos.tensors import Array
from registry.sections import TensorSpec
from serving.config import RedactionRule


def check_rules(rules: Sequence[RedactionRule], inputs: Sequence[TensorSpec]) -> None:
    """Refuse a rule that names no tensor or column of the model.

    Raises:
        ConfigurationError: a rule that would silently protect nothing.
    """
    specs = {spec.name: spec for spec in inputs}
    for rule in rules:
        if rule.tensor not in specs:
            raise ConfigurationError(
                f"capture.redact names the tensor {rule.tensor!r}", fix=f"The model has {', '.join(specs)}"
            )
        width = specs[rule.tensor].shape[-1]
        if rule.columns and len(specs[rule.tensor].shape) == 1:
            raise ConfigurationError(
                f"capture.redact names columns of {rule.tensor!r}, which has one value a row", fix="Leave columns out"
            )
        for column in rule.columns:
            if column < 0 or (width != -1 and column >= width):
                raise ConfigurationError(
                    f"capture.redact names column {column} of {rule.tensor!r}", fix=f"It has {width}"
                )
        if rule.action == "drop" and rule.columns:
            raise ConfigurationError(
                f"capture.redact drops columns of {rule.tensor!r}", fix="Zero or hash them, or drop the tensor"
            )
    if not set(specs) - {rule.tensor for rule in rules if rule.action == "drop"}:
        raise ConfigurationError("capture.redact drops every input", fix="Leave one, or set capture.rate to 0")


def redact(rules: Sequence[RedactionRule], key: bytes, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the inputs as the rules leave them; untouched arrays are shared, changed ones are copies."""
    left = dict(inputs)
    for rule in rules:
        if rule.action == "drop":
            left.pop(rule.tensor, None)
            continue
        if rule.tensor not in left:
            continue
        array = left[rule.tensor].copy()
        columns = list(rule.columns) if rule.columns else slice(None)
        if rule.action == "zero":
            array[..., columns] = b"" if array.dtype.hasobject else 0
        else:
            array[..., columns] = _hashed(key, array[..., columns])
        left[rule.tensor] = array
    return left


def _hashed(key: bytes, values: Array) -> Array:
    """Return a keyed hash of each value in the values' own type: equal values stay equal, nothing else is kept."""
    if values.dtype.hasobject:  # strings: the hash in hexadecimal digits
        strings = np.empty(values.shape, object)
        for index, string in np.ndenumerate(values):
            strings[index] = _digest(key, string).hex().encode()
        return strings
    values = np.ascontiguousarray(values)  # chosen columns may come in another order, whose flat view would be a copy
    hashed = np.empty(values.shape, values.dtype)
    bound = min(2**24, 2 ** (8 * values.dtype.itemsize - 1)) if values.dtype.kind in "iu" else 2**11
    flat_in, flat_out = values.reshape(-1), hashed.reshape(-1)
    known: dict[bytes, int] = {}
    for place, value in enumerate(flat_in):
        raw = value.tobytes()
        if raw not in known:
            known[raw] = int.from_bytes(_digest(key, raw), "little") % bound
        flat_out[place] = known[raw]
    return hashed


def _digest(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=8, key=key, person=b"everstill-redact").digest()
