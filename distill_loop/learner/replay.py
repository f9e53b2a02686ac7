"""Replay: which pairs a batch is made of - half of them the newest, half from a class-balanced memory.

Decides what is remembered and what is forgotten (measured: this mix beats newest only, which forgets, and uniform memory, which
is slow; docs/architecture.md). Both are bounded; what an older teacher version said is never mixed with what a newer one says.
Its choices come from a seeded generator of its own, so that a restart from a checkpoint goes on identically. One thread.
"""

import bisect
import collections
from typing import Any

import numpy as np
import torch

from distill_loop.learner.pair import TrainingPair
from protos.tensors import Array, datatype_of, decode, encode


class Replay:
    """The newest pairs, and a memory in which no class crowds out another.

    Args:
        ring_pairs: newest pairs kept for the recency half.
        memory_bytes: bound of the class-balanced memory; the ring's pairs are the same objects until the memory forgets them.
    """

    def __init__(self, *, ring_pairs: int, memory_bytes: int, seed: int) -> None:
        self._ring: collections.deque[TrainingPair] = collections.deque(maxlen=ring_pairs)
        self._classes: dict[int, list[TrainingPair]] = {}
        self._sizes: list[tuple[int, int]] = []  # of each class, with its label, in order
        self._num_pairs = 0
        self._memory_bytes = memory_bytes
        self._used_bytes = 0
        self._random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self._num_pairs

    @property
    def num_bytes(self) -> int:
        """Bytes of the memory's pairs."""
        return self._used_bytes

    @property
    def class_counts(self) -> dict[int, int]:
        """How many pairs of each teacher class the memory holds."""
        return {label: len(pairs) for label, pairs in self._classes.items()}

    def add(self, pair: TrainingPair) -> None:
        """Remember a pair; where the memory is full, a random pair of its largest class is forgotten."""
        self._ring.append(pair)
        label = pair.teacher_class
        pairs = self._classes.setdefault(label, [])
        pairs.append(pair)
        self._resize(label, len(pairs) - 1, len(pairs))
        self._num_pairs += 1
        self._used_bytes += pair.num_bytes
        while self._used_bytes > self._memory_bytes and len(self) > 1:
            _, largest = self._sizes[-1]
            pairs = self._classes[largest]
            forgotten = pairs.pop(int(self._random.integers(len(pairs))))
            self._resize(largest, len(pairs) + 1, len(pairs))
            self._num_pairs -= 1
            self._used_bytes -= forgotten.num_bytes
            if not pairs:
                del self._classes[largest]

    def _resize(self, label: int, before: int, after: int) -> None:
        """Keep the sizes in order: a full memory asks for the largest class at every pair."""
        if before:
            del self._sizes[bisect.bisect_left(self._sizes, (before, label))]
        if after:
            bisect.insort(self._sizes, (after, label))

    def forget_before(self, time_unix_ns: int) -> None:
        """Forget pairs of older records."""
        ring = [pair for pair in self._ring if pair.time_unix_ns >= time_unix_ns]
        self._ring.clear()
        self._ring.extend(ring)
        for label, pairs in list(self._classes.items()):
            self._classes[label] = [pair for pair in pairs if pair.time_unix_ns >= time_unix_ns]
            if not self._classes[label]:
                del self._classes[label]
        self._count()

    def _count(self) -> None:
        self._sizes = sorted((len(pairs), label) for label, pairs in self._classes.items())
        self._num_pairs = sum(map(len, self._classes.values()))
        self._used_bytes = sum(pair.num_bytes for pairs in self._classes.values() for pair in pairs)

    def clear(self) -> None:
        """Forget every pair."""
        self._ring.clear()
        self._classes.clear()
        self._sizes.clear()
        self._num_pairs = self._used_bytes = 0

    def sample(self, batch_size: int) -> list[TrainingPair]:
        """Return the pairs of a batch.

        Half are drawn from the newest pairs; for the others a class is drawn first, then one of its pairs. Needs one pair.
        """
        ring = list(self._ring)
        newest = self._random.choice(len(ring), size=min(batch_size // 2, len(ring)), replace=False)
        chosen = [ring[place] for place in newest]
        labels = sorted(self._classes)
        for label in self._random.integers(len(labels), size=batch_size - len(chosen)):
            pairs = self._classes[labels[label]]
            chosen.append(pairs[int(self._random.integers(len(pairs)))])
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values."""
        labels = sorted(self._classes)
        pairs = list(
            {id(pair): pair for pair in [*self._ring, *(p for label in labels for p in self._classes[label])]}.values()
        )
        place = {id(pair): index for index, pair in enumerate(pairs)}
        return {
            "pairs": pack_pairs(pairs),
            "ring": [place[id(pair)] for pair in self._ring],
            "classes": {label: [place[id(pair)] for pair in self._classes[label]] for label in labels},
            "random": self._random.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        pairs = unpack_pairs(state["pairs"])
        self._ring.clear()
        self._ring.extend(pairs[place] for place in state["ring"])
        self._classes = {label: [pairs[place] for place in places] for label, places in state["classes"].items()}
        self._count()
        self._random.bit_generator.state = state["random"]


def pack_pairs(pairs: list[TrainingPair]) -> dict[str, Any]:
    """Return pairs, whose inputs agree in name, type and number of dimensions, as a few tensors.

    Inputs travel as bytes, one after another, with their lengths and shapes: torch has no strings and not every unsigned type.
    """
    if not pairs:
        return {"num": 0}
    inputs = {}
    for name, first in pairs[0].inputs.items():
        raws = [encode(pair.inputs[name]) for pair in pairs]
        inputs[name] = {
            "datatype": datatype_of(first),
            "shapes": torch.tensor([pair.inputs[name].shape for pair in pairs], dtype=torch.int64),
            "lengths": torch.tensor([len(raw) for raw in raws], dtype=torch.int64),
            "raw": torch.from_numpy(np.frombuffer(bytearray().join(raws), np.uint8)),  # its own bytes, copied once
        }
    return {
        "num": len(pairs),
        "inputs": inputs,
        "teacher": torch.from_numpy(np.stack([pair.teacher_probabilities_C for pair in pairs])),
        "record_ids": [pair.record_id for pair in pairs],
        "input_keys": [pair.input_key for pair in pairs],
        "times": [pair.time_unix_ns for pair in pairs],
        "teacher_versions": [pair.teacher_version for pair in pairs],
    }


def unpack_pairs(packed: dict[str, Any]) -> list[TrainingPair]:
    """Return the pairs that `pack_pairs` packed; each owns its bytes, so that forgetting one frees them."""
    if not packed["num"]:
        return []
    columns = {name: _unpacked(name, one) for name, one in packed["inputs"].items()}
    teacher = packed["teacher"].numpy()
    return [
        TrainingPair(
            packed["record_ids"][row],
            packed["input_keys"][row],
            {name: arrays[row] for name, arrays in columns.items()},
            teacher[row].copy(),
            packed["times"][row],
            packed["teacher_versions"][row],
        )
        for row in range(packed["num"])
    ]


def _unpacked(name: str, column: dict[str, Any]) -> list[Array]:
    raw, start, arrays = column["raw"].numpy().tobytes(), 0, []
    for shape, length in zip(column["shapes"].tolist(), column["lengths"].tolist(), strict=True):
        arrays.append(decode(name, column["datatype"], shape, raw[start : start + length]).copy())
        start += length
    return arrays
