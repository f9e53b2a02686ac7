"""The paired Brier score of a trial row, in the mirror's part and the loop's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.brier import advantage_of, parts_of


def softmax(logits_C: np.ndarray) -> np.ndarray:
    exponents_C = np.exp(logits_C - logits_C.max())
    return np.asarray(exponents_C / exponents_C.sum())


@given(seed=st.integers(0, 2**32), num_classes=st.integers(2, 40), scale=st.floats(0.1, 30))
def test_both_parts_together_are_the_difference_of_two_brier_scores(seed: int, num_classes: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    incumbent_C, candidate_C, teacher_C = scale * rng.normal(size=(3, num_classes)).astype(np.float32)
    teacher_C = softmax(teacher_C).astype(np.float32)

    parts = parts_of(incumbent_C, candidate_C)

    assert parts is not None
    errors = [float(((softmax(one_C) - teacher_C) ** 2).sum()) for one_C in (incumbent_C, candidate_C)]
    assert advantage_of(*parts, teacher_C) == pytest.approx((errors[0] - errors[1]) / 2, abs=2e-3)


def test_a_score_that_makes_no_sense_is_none() -> None:
    teacher_C = np.array([0.5, 0.5], np.float32)

    assert parts_of(None, teacher_C) is None
    assert parts_of(teacher_C, np.zeros(3, np.float32)) is None
    assert advantage_of(0.0, b"\0\0", teacher_C) is None
    assert advantage_of(float("nan"), bytes(4), teacher_C) is None
    assert advantage_of(1e9, bytes(4), teacher_C) == 1.0
