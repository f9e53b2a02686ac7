"""The recipe digits: a teacher that knows both kinds of picture, and a stream whose second half comes inverted."""

import pathlib

import numpy as np
import onnxruntime
import pytest

from everstill.recipes import digits
from everstill.recipes.recipe import Material, Order


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return digits.gather(Order(1000, 0.4, 5, tmp_path_factory.mktemp("digits")))


def test_pictures_are_all_different_and_inverted_after_the_drift(made: Material) -> None:
    pictures = np.concatenate([row["image"] for row in made.rows])

    assert (pictures.shape, pictures.dtype) == ((1000, 8, 8), np.float32)
    assert (pictures.min(), pictures.max()) == (0.0, 1.0)
    assert len({picture.tobytes() for picture in pictures}) == 1000
    bright = pictures.mean(axis=(1, 2)) > 0.5
    assert made.drifts == (400,)
    assert not bright[:400].any()
    assert 0.7 < bright[400:].mean() < 0.9


def test_the_teacher_reads_both_kinds_of_picture(made: Material) -> None:
    session = onnxruntime.InferenceSession(made.teacher)
    inverted = np.arange(600) % 2 == 1
    pictures, truth = digits.altered(600, inverted, np.random.default_rng(9))

    (probabilities_BC,) = session.run(["probabilities"], {"image": pictures})

    assert probabilities_BC.shape == (600, len(made.labels))
    assert np.allclose(probabilities_BC.sum(axis=1), 1.0, atol=1e-5)
    for kind in (inverted, ~inverted):
        assert (probabilities_BC.argmax(axis=1) == truth)[kind].mean() > 0.9


def test_the_same_seed_gives_the_same_pictures_and_another_one_others(tmp_path: pathlib.Path) -> None:
    first, again, other = (digits.stream(Order(50, 0.4, seed, tmp_path))[0] for seed in (5, 5, 6))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
