"""One small task for each built-in student: a model's inputs, settings, and pairs whose input shows their class."""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

from distill_loop.config import LearnerSection
from distill_loop.learner.pair import TrainingPair
from protos.tensors import Array, strings
from registry.sections import ModelSection, TensorSpec

NUM_CLASSES = 3
WORDS = ("red", "green", "blue")
Row = Callable[[int, np.random.Generator], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Task:
    """inputs: [model]'s; row: makes the inputs [1, ...] of a label."""

    student: str
    inputs: tuple[TensorSpec, ...]
    row: Row
    settings: dict[str, object] = dataclasses.field(default_factory=dict)

    @property
    def model(self) -> ModelSection:
        """The task's [model]."""
        return ModelSection(name="task", inputs=self.inputs, num_classes=NUM_CLASSES)

    def learner(self, **changes: object) -> LearnerSection:
        """Return settings of a student that learns it in a second."""
        small = {"hidden": 16, "embedding": 8, "buckets": 64, "batch_size": 16, "ring_pairs": 32, "text_bytes": 32}
        return LearnerSection.model_validate({**small, "learning_rate": 0.01, **self.settings, **changes})

    def pair(self, number: int) -> TrainingPair:
        """Return pair `number`; the teacher is nearly sure of class number % 3."""
        label = number % NUM_CLASSES
        probabilities_C = np.full(NUM_CLASSES, 0.01, np.float32)
        probabilities_C[label] = 0.98
        name = f"{self.student} {number}".encode()
        return TrainingPair(
            record_id=hashlib.blake2b(name, digest_size=16).digest(),
            input_key=hashlib.blake2b(name, digest_size=16, person=b"input").digest(),
            inputs=self.row(label, np.random.default_rng(number)),
            teacher_probabilities_C=probabilities_C,
            time_unix_ns=number,
            teacher_version="teacher-1",
        )


def _text(label: int, random: np.random.Generator) -> dict[str, Array]:
    noise = "".join(map(chr, random.integers(97, 123, int(random.integers(0, 12)))))
    return {"text": strings([f"{noise} {WORDS[label]}"]).reshape(1, 1)}


def _tokens(label: int, random: np.random.Generator) -> dict[str, Array]:
    ids = np.append(random.integers(100, 1000, int(random.integers(0, 9))), 7 + label)[None].astype(np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _table(label: int, random: np.random.Generator) -> dict[str, Array]:
    numbers = random.normal(0, 1, (1, 4)).astype(np.float32)
    numbers[0, 0] = 1e4 + 300 * (label == 1) + 30 * numbers[0, 0]  # far from 0, and wide: it has to be scaled
    kinds = np.array([[[4, 4, 90][label], random.integers(50)]], np.int64)
    return {"numbers": numbers, "kinds": kinds}


def _image(label: int, random: np.random.Generator) -> dict[str, Array]:
    image = random.integers(0, 60, (1, 8, 12, 3)).astype(np.uint8)
    image[0, 4 * (label > 0) :, 4 * label : 4 * label + 4] = 200
    return {"image": image}


def _window(label: int, random: np.random.Generator) -> dict[str, Array]:
    window = random.integers(0, 257, (1, 64)).astype(np.int32)
    window[0, :24] = 20 + 40 * label
    return {"bytes": window}


def _spec(name: str, datatype: str, *sizes: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *sizes))


TASKS = {
    "text": Task("ngrams", (_spec("text", "BYTES", 1),), _text),
    "tokens": Task(
        "ngrams", (_spec("input_ids", "INT64", -1), _spec("attention_mask", "INT64", -1)), _tokens, {"buckets": 1024}
    ),
    "table": Task("tabular", (_spec("numbers", "FP32", 4), _spec("kinds", "INT64", 2)), _table),
    "image": Task("image", (_spec("image", "UINT8", 8, 12, 3),), _image, {"image": {"channels": 4}}),
    "window": Task("byte_window", (_spec("bytes", "INT32", 64),), _window),
}
