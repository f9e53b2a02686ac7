"""Identity of a record: its id, the key of its input, and the coins that decide where it goes.

Decides how ids and keys are made, so that gateway, mirror and loop agree on them for ever. Pure functions, any thread.
"""

import hashlib
import os
import struct
import time
from collections.abc import Iterable

from protos import records_pb2

#: Version of the messages in records.proto, sent as the stream header `schema`.
SCHEMA_VERSION = 1
SCHEMA_HEADER = "schema"
#: Stream headers beside it: the model that a message is of, and how many records it holds.
MODEL_HEADER = "model"
RECORDS_HEADER = "records"
#: Bytes of a record id.
ID_BYTES = 16
#: Set on what an operator sent again from the dead letters.
REPLAY_HEADER = "replay"
#: Share of [0, 1) that one unit of a 64-bit hash covers.
_UNIT = 1.0 / 2**64

#: Arms of the sampler. See docs/architecture.md, "Sampling".
ARM_UNIFORM = "uniform"
ARM_TRIAL = "trial"
ARM_PASS_THROUGH = "pass_through"


def mint_record_id() -> bytes:
    """Return a fresh 16-byte UUIDv7 (RFC 9562): 48 bits of unix milliseconds, then random bits."""
    milliseconds = time.time_ns() // 1_000_000
    raw = bytearray(milliseconds.to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return bytes(raw)


def is_record_id(value: bytes) -> bool:
    """Return whether these bytes are a UUIDv7, as `mint_record_id` makes them."""
    return len(value) == ID_BYTES and value[6] >> 4 == 7 and value[8] >> 6 == 2


def minted_unix_ns(record_id: bytes) -> int:
    """Return when a record id was minted, to the millisecond."""
    return int.from_bytes(record_id[:6], "big") * 1_000_000


def row_record_id(record_id: bytes, row: int) -> bytes:
    """Return the id of one row of a request: row 0 has the request's own, others differ from it in their last 4 bytes."""
    return record_id[:12] + (int.from_bytes(record_id[12:], "big") ^ row).to_bytes(4, "big")


def input_key(tensors: Iterable[records_pb2.Tensor]) -> bytes:
    """Return the 128-bit hash of a request's inputs, independent of the order in which they were sent."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in sorted(tensors, key=lambda one: one.name):
        header = f"{tensor.name}\0{tensor.datatype}\0{','.join(map(str, tensor.shape))}\0".encode()
        digest.update(struct.pack("<QQ", len(header), len(tensor.raw)))
        digest.update(header)
        digest.update(tensor.raw)
    return digest.digest()


def coin(key: bytes, arm: str, record_id: bytes) -> float:
    """Return the keyed coin of one arm for one record, uniform in [0, 1): the arm takes the record where it is below pi.

    Args:
        key: secret of this deployment, at most 64 bytes, so that a caller can't choose to be sampled.
    """
    digest = hashlib.blake2b(record_id, digest_size=8, key=key, person=arm.encode()[:16]).digest()
    return int.from_bytes(digest, "little") * _UNIT


def keyed_tag(key: bytes, value: str) -> bytes:
    """Return the 16-byte keyed hash that stands for a client or a subject on the stream."""
    return hashlib.blake2b(value.encode(), digest_size=16, key=key, person=b"everstill-tag").digest()
