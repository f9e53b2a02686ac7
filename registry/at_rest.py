"""Encryption of captured inputs on disk: what a spool, a journal or a checkpoint holds, sealed with a configured key.

Decides the bytes of a sealed piece: AES-256-GCM, a fresh random nonce each, the key's own short name beside it so that older keys still
read. Without a key nothing is sealed, older keys read all the same, and what was written before there was a key is read as it is. Knows nothing of what it seals; where that
belongs is its `context`, so that a piece put in another place doesn't open. Called by the mirror and by the loop; safe from any thread.
"""

import hashlib
import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protos.errors import FormatError
from registry.sections import AtRestSection

MAGIC = b"EVSEAL01"
NONCE_BYTES, TAG_BYTES = 12, 16
#: A piece is sealed in parts of this size, each with a nonce of its own: GCM takes less than 2 GiB at once.
PART_BYTES = 2**28
_HEADER = struct.Struct("<8s8s12s")
_PLACE = struct.Struct("<I?")


class KeyMissing(FormatError):
    """Something was sealed with a key that isn't configured; it is whole, and readable once the key is."""


class AtRest:
    """Seals with one key and opens with any.

    Args:
        key: 32 bytes to seal with; empty where nothing is to be encrypted any more, or never was.
        previous: older keys, to open with.
    """

    def __init__(self, key: bytes = b"", *previous: bytes) -> None:
        self._ciphers = {key_id(one): AESGCM(one) for one in (key, *previous) if one}
        self._sealing = key_id(key) if key else b""

    @classmethod
    def of(cls, settings: AtRestSection) -> "AtRest":
        """Return what the configuration says."""
        return cls(settings.sealing_key, *settings.older_keys)

    @property
    def seals(self) -> bool:
        """Whether there is a key to seal with."""
        return bool(self._sealing)

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """Return the bytes to write: sealed, or as they are where there is no key."""
        if not self._sealing:
            return plain
        nonce = os.urandom(NONCE_BYTES)
        cipher = self._ciphers[self._sealing]
        starts = range(0, max(1, len(plain)), PART_BYTES)
        parts = [
            cipher.encrypt(_nonce(nonce, place), plain[start : start + PART_BYTES], _bound(context, place, len(starts)))
            for place, start in enumerate(starts)
        ]
        return b"".join([_HEADER.pack(MAGIC, self._sealing, nonce), *parts])

    def open(self, written: bytes, context: bytes) -> bytes:
        """Return what was sealed; bytes that never were come back as they are.

        Raises:
            KeyMissing: the key isn't configured any more.
            FormatError: the bytes were changed or belong to another place.
        """
        if not written.startswith(MAGIC):
            return written
        if len(written) < _HEADER.size + TAG_BYTES:
            raise FormatError("a sealed piece is cut short")
        _, name, nonce = _HEADER.unpack_from(written)
        if name not in self._ciphers:
            raise KeyMissing(
                f"this was sealed with the key {name.hex()}, which isn't configured",
                fix="Name it in at_rest.previous_keys",
            )
        starts = range(_HEADER.size, len(written), PART_BYTES + TAG_BYTES)
        try:
            return b"".join(
                self._ciphers[name].decrypt(
                    _nonce(nonce, place),
                    written[start : start + PART_BYTES + TAG_BYTES],
                    _bound(context, place, len(starts)),
                )
                for place, start in enumerate(starts)
            )
        except InvalidTag:
            raise FormatError("a sealed piece was changed, or belongs to another place") from None


def key_id(key: bytes) -> bytes:
    """Return the 8 bytes that name a key without telling it."""
    return hashlib.blake2b(key, digest_size=8, person=b"everstill-key").digest()


def _nonce(first: bytes, place: int) -> bytes:
    return ((int.from_bytes(first, "little") + place) % 2**96).to_bytes(NONCE_BYTES, "little")


def _bound(context: bytes, place: int, num_parts: int) -> bytes:
    """Return what a part is bound to: its place, and whether it is the last, so that none can be cut off or moved."""
    return _PLACE.pack(place, place == num_parts - 1) + context
