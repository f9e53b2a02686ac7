"""Lives of a deterministic loop: the stream that all of them read, and what each has become in the end."""

import hashlib
import pathlib
import struct
from typing import Any

import torch

from distill_loop.stream.dedupe import Dedupe
from protos import records_pb2 as records
from protos.topics import PAIRS
from tests.support.loops import MODEL
from tests.support.publishing import StreamWriter, make_pair

PAIRS_PER_MESSAGE = 6
DETERMINISTIC = {
    "[loop]": "[loop]\ndeterministic = true\ncheckpoint_every_messages = 4",
    "cut_every_pairs = 24": "cut_every_pairs = 48",
}


def changed(text: str, changes: dict[str, str]) -> str:
    """Return a configuration with these lines in place of others, which must be there."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def digest_of(state: Any) -> str:
    """Return one SHA-256 over a state's types, tensors and values."""
    digest = hashlib.sha256()

    def add(one: Any) -> None:
        digest.update(type(one).__name__.encode())
        if isinstance(one, torch.Tensor):
            digest.update(f"{one.dtype}{tuple(one.shape)}".encode() + one.contiguous().numpy().tobytes())
        elif isinstance(one, dict):
            for name, value in one.items():
                add(name)
                add(value)
        elif isinstance(one, list | tuple):
            for value in one:
                add(value)
        elif isinstance(one, float):
            digest.update(struct.pack("<d", one))
        else:
            digest.update(repr(one).encode() if not isinstance(one, bytes) else one)

    add(state)
    return digest.hexdigest()


def ids_in(state: dict[str, Any], fate: str) -> set[bytes]:
    """Return the records of a checkpoint that have this fate."""
    window = Dedupe(10**6)
    window.load_state_dict(state["dedupe"])
    return window.records(fate)


def messages_of(num_messages: int) -> list[bytes]:
    """Return messages of pairs; every fifth begins with a pair of the one before, and one is no message at all."""
    messages = []
    for number in range(num_messages):
        first = number * PAIRS_PER_MESSAGE - (number % 5 == 4)
        batch = records.PairBatch(pairs=[make_pair(one) for one in range(first, first + PAIRS_PER_MESSAGE)])
        messages.append(batch.SerializeToString() if number != 9 else b"\xff rubbish")
    return messages


def written(folder: pathlib.Path, num_messages: int, partitions: int) -> pathlib.Path:
    """Write messages to a stream file; all lives read copies of it, times and all."""
    path = folder / "stream.sqlite"
    writer = StreamWriter(path, MODEL, partitions)
    for number, message in enumerate(messages_of(num_messages)):
        writer.raw(PAIRS, number % partitions, message)
    writer.close()
    return path
