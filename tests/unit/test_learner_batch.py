"""Rows into batches: what a row is filled up with, and which rows are refused. And the scale of columns: robust, and seldom moved."""

import numpy as np
import pytest
import torch

from distill_loop.learner import batch
from distill_loop.learner.scaling import FIRST_ROWS, Scaling, scaled
from protos.errors import FormatError
from protos.tensors import strings
from registry.sections import TensorSpec

IDS = TensorSpec(name="ids", datatype="INT64", shape=(-1, -1), padding=7)
TEXT = TensorSpec(name="text", datatype="BYTES", shape=(-1, 1))


def test_rows_of_different_lengths_are_filled_up_with_the_padding() -> None:
    rows = [{"ids": np.array([[1, 2, 3]])}, {"ids": np.array([[4]])}]

    stacked = batch.stack([IDS], rows)["ids"]

    assert stacked.tolist() == [[1, 2, 3], [4, 7, 7]]
    assert stacked.dtype == np.int64


def test_no_rows_are_an_empty_batch_of_the_right_type() -> None:
    empty = batch.stack([IDS, TEXT], [])

    assert (empty["ids"].shape, empty["ids"].dtype) == ((0, 0), np.int64)
    assert (empty["text"].shape, empty["text"].dtype) == ((0, 1), object)


def test_texts_become_windows_of_bytes() -> None:
    (window,) = batch.as_tensors([TEXT], {"text": strings(["ab", ""]).reshape(2, 1)}, 4)

    assert window.tolist() == [[97, 98, 256, 256], [256] * 4]


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"ids": np.zeros((1, 2), np.int32)},
        {"ids": np.zeros((2, 2), np.int64)},
        {"ids": np.zeros((1, 2, 1), np.int64)},
        {"ids": strings(["a"]).reshape(1, 1)},
    ],
)
def test_what_is_not_one_row_of_the_model_is_refused(inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(FormatError, match="'ids'"):
        batch.check_row([IDS], inputs)


def make_scaling() -> tuple[Scaling, torch.Tensor, torch.Tensor]:
    centre_F, spread_F = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    return Scaling(centre_F, spread_F, lambda inputs: inputs["x"]), centre_F, spread_F


def test_a_scale_is_taken_at_the_first_rows_and_stray_values_hardly_move_it() -> None:
    scaling, centre_F, spread_F = make_scaling()
    rows = np.random.default_rng(0).normal([1000.0, 0.0], [20.0, 0.0], (FIRST_ROWS, 2))
    rows[3, 0], rows[5, 0], rows[6, 0] = 1e9, np.nan, np.inf

    for row in rows[:-1]:
        scaling.observe({"x": row[None]})
    assert centre_F.tolist() == [0, 0]
    scaling.observe({"x": rows[-1:]})

    assert abs(centre_F[0] - 1000) < 20
    assert 5 < spread_F[0] < 60
    assert (centre_F[1], spread_F[1]) == (0, 1)  # a constant column divides by nothing


def test_between_two_takings_a_scale_stands() -> None:
    scaling, centre_F, _ = make_scaling()
    for _ in range(FIRST_ROWS):
        scaling.observe({"x": np.ones((1, 2))})

    for _ in range(FIRST_ROWS - 1):
        scaling.observe({"x": np.full((1, 2), 9.0)})
    assert centre_F.tolist() == [1, 1]
    scaling.observe({"x": np.full((1, 2), 9.0)})

    assert centre_F.tolist() == [5, 5]


def test_large_numbers_that_lie_close_together_stay_apart_and_far_ones_come_near() -> None:
    centre, spread = torch.tensor([1e9], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)

    near, far, missing = scaled(
        torch.tensor([[1e9 + 0.25], [1e12], [float("nan")]], dtype=torch.float64), centre, spread
    )

    assert near.item() == pytest.approx(np.log1p(0.5))
    assert far.item() < 30
    assert missing.item() == 0
