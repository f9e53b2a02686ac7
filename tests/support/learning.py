"""Pairs and settings for tests of the learner: a small byte-window student, and windows that look like their label."""

import hashlib
from typing import Any

import numpy as np
import torch

from distill_loop.config import LearnerSection
from distill_loop.learner.pair import TrainingPair
from registry.sections import ModelSection, TensorSpec

NUM_CLASSES, WINDOW = 6, 96
MODEL = ModelSection(inputs=(TensorSpec(name="bytes", datatype="INT32", shape=(-1, WINDOW)),), num_classes=NUM_CLASSES)


def small_learner(**changes: object) -> LearnerSection:
    """Return settings of a student that learns in milliseconds."""
    small = {
        "student": "byte_window",
        "hidden": 16,
        "embedding": 8,
        "buckets": 64,
        "batch_size": 16,
        "ring_pairs": 32,
        "memory_bytes": 2**20,
    }
    return LearnerSection.model_validate({**small, **changes})


def make_window(label: int, number: int) -> np.ndarray:
    """Return bytes int32 [1, WINDOW]: noise and padding, whose beginning says the label."""
    rng = np.random.default_rng(number)
    window = rng.integers(0, 257, (1, WINDOW)).astype(np.int32)
    window[0, :32] = 20 + 30 * label
    return window


def make_training_pair(
    number: int, *, label: int | None = None, teacher_version: str = "teacher-1", time_unix_ns: int | None = None
) -> TrainingPair:
    """Return pair `number`: the teacher is nearly sure of `label`, which the input shows."""
    label = number % NUM_CLASSES if label is None else label
    probabilities_C = np.full(NUM_CLASSES, 0.01, np.float32)
    probabilities_C[label] = 1 - 0.01 * (NUM_CLASSES - 1)
    name = f"pair {number}".encode()
    return TrainingPair(
        record_id=hashlib.blake2b(name, digest_size=16).digest(),
        input_key=hashlib.blake2b(name, digest_size=16, person=b"input").digest(),
        inputs={"bytes": make_window(label, number)},
        teacher_probabilities_C=probabilities_C,
        time_unix_ns=number if time_unix_ns is None else time_unix_ns,
        teacher_version=teacher_version,
    )


def same_bits(left: Any, right: Any) -> bool:
    """Whether two states hold the same types and bits, however their objects are shared."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_bits(left[name], right[name]) for name in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same_bits, left, right))
    return bool(left == right)
