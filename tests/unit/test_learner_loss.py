"""The distillation loss against a plain numpy version of its formula, value and gradient."""

from typing import Any

import numpy as np
import pytest
import torch

from distill_loop.learner.loss import MIN_PROBABILITY, distillation_loss, pearson

Floats = np.ndarray[Any, np.dtype[np.float64]]
WEIGHTS = {"relation_weight": 2.0, "kl_weight": 0.5}


def plain_softmax(logits_BC: Floats) -> Floats:
    exponents_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    return exponents_BC / exponents_BC.sum(axis=1, keepdims=True)


def plain_loss(logits_BC: Floats, teacher_BC: Floats, relation_weight: float = 2.0, kl_weight: float = 0.5) -> float:
    """DIST's equations 6 to 9 with b = g, and KL(teacher || student), as loops over rows and columns."""
    student_BC = plain_softmax(logits_BC)
    rows = [np.corrcoef(student, teacher)[0, 1] for student, teacher in zip(student_BC, teacher_BC, strict=True)]
    columns = [np.corrcoef(student, teacher)[0, 1] for student, teacher in zip(student_BC.T, teacher_BC.T, strict=True)]
    logs_BC = np.log(np.maximum(teacher_BC, MIN_PROBABILITY)) - np.log(student_BC)
    kl = (teacher_BC * logs_BC).sum(axis=1).mean()
    return relation_weight * (1 - np.mean(rows) + 1 - np.mean(columns)) + kl_weight * kl


def make_batch(seed: int, num_rows: int = 5, num_classes: int = 7) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_rows, num_classes)), plain_softmax(3 * rng.normal(size=(num_rows, num_classes)))


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_its_formula(seed: int) -> None:
    logits_BC, teacher_BC = make_batch(seed)

    loss = distillation_loss(torch.from_numpy(logits_BC), torch.from_numpy(teacher_BC), **WEIGHTS)

    assert loss.item() == pytest.approx(plain_loss(logits_BC, teacher_BC), rel=1e-6)


@pytest.mark.parametrize("weights", [(2.0, 0.0), (0.0, 1.0), (2.0, 0.5)])
def test_the_gradient_is_that_of_the_plain_formula(weights: tuple[float, float]) -> None:
    logits_BC, teacher_BC = make_batch(1)
    logits = torch.from_numpy(logits_BC).requires_grad_()

    distillation_loss(logits, torch.from_numpy(teacher_BC), relation_weight=weights[0], kl_weight=weights[1]).backward()

    expected_BC, step = np.zeros_like(logits_BC), 1e-5
    for place in np.ndindex(*logits_BC.shape):
        move_BC = np.zeros_like(logits_BC)
        move_BC[place] = step
        above, below = (plain_loss(logits_BC + sign * move_BC, teacher_BC, *weights) for sign in (1, -1))
        expected_BC[place] = (above - below) / (2 * step)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), expected_BC, atol=2e-7)


def test_golden_values_hold_at_full_precision() -> None:
    student_BC = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [0.25, 0.25, 3.0]], dtype=torch.float64)
    teacher_BC = torch.tensor([[0.7, 0.1, 0.2], [0.0, 1.0, 0.0], [0.05, 0.15, 0.8]], dtype=torch.float64)

    relations = distillation_loss(student_BC, teacher_BC, relation_weight=2.0, kl_weight=0.0)
    forward_kl = distillation_loss(student_BC, teacher_BC, relation_weight=0.0, kl_weight=1.0)

    assert relations.item() == pytest.approx(0.08253498623632205, rel=1e-13)
    assert forward_kl.item() == pytest.approx(0.14865124921781034, rel=1e-13)


def test_a_student_that_answers_like_its_teacher_has_no_loss() -> None:
    logits_BC, _ = make_batch(3)

    loss = distillation_loss(torch.from_numpy(logits_BC), torch.from_numpy(plain_softmax(logits_BC)), **WEIGHTS)

    assert loss.item() == pytest.approx(0.0, abs=1e-5)


def test_certain_teachers_and_uniform_students_have_finite_gradients() -> None:
    logits = torch.zeros((4, 6), requires_grad=True)
    certain_BC = torch.eye(6)[:4]

    distillation_loss(logits, certain_BC, **WEIGHTS).backward()

    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_saturated_students_have_finite_losses_and_gradients() -> None:
    logits = (torch.eye(6)[[1, 2, 3, 4]] * 1e4).requires_grad_()
    certain_BC = torch.eye(6)[:4]

    loss = distillation_loss(logits, certain_BC, **WEIGHTS)
    loss.backward()

    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_relations_ignore_scale_and_shift() -> None:
    left = torch.tensor([[0.1, 0.7, 0.2]], dtype=torch.float64)

    assert pearson(left, 5 * left + 3).item() == pytest.approx(1.0, abs=1e-6)
    assert pearson(left, -left).item() == pytest.approx(-1.0, abs=1e-6)
    assert pearson(left, torch.ones_like(left)).item() == 0.0
