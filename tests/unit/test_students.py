"""The tests' tiny student answers as it says, or every test that serves it lies."""

import io

import numpy as np
import onnxruntime
import pytest

from registry.bundle import GOLDEN, MODEL
from registry.sections import TensorSpec
from tests.support.students import make_student_files

IMAGES = (TensorSpec(name="pixels", datatype="FP32", shape=(-1, 3, 4)),)


def run(files: dict[str, bytes], name: str, array: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(files[MODEL], providers=["CPUExecutionProvider"])
    return session.run(["logits"], {name: array})[0]


@pytest.mark.parametrize("winner", [0, 3, 213])
def test_its_top_class_is_the_winner_whatever_the_input(winner: int) -> None:
    files = make_student_files(winner=winner, scale=50.0)
    rows = np.random.default_rng(0).integers(0, 257, (32, 2048)).astype(np.int32)

    logits_BC = run(files, "bytes", rows)

    assert logits_BC.shape == (32, 214)
    assert (logits_BC.argmax(axis=1) == winner).all()


def test_its_logits_depend_on_the_input() -> None:
    files = make_student_files(scale=50.0)

    zeros = run(files, "bytes", np.zeros((1, 2048), np.int32))
    others = run(files, "bytes", np.full((1, 2048), 200, np.int32))

    assert np.abs(zeros - others).max() > 1


@pytest.mark.parametrize("inputs", [None, IMAGES])
def test_its_golden_answers_are_its_own(inputs: tuple[TensorSpec, ...] | None) -> None:
    files = make_student_files() if inputs is None else make_student_files(inputs=inputs, num_classes=5)
    name = "bytes" if inputs is None else "pixels"

    with np.load(io.BytesIO(files[GOLDEN]), allow_pickle=False) as golden:
        logits_BC = run(files, name, golden[f"input:{name}"])
        np.testing.assert_allclose(logits_BC, golden["logits"], rtol=1e-3, atol=1e-3)


def test_golden_answers_can_be_made_wrong() -> None:
    files = make_student_files(winner=3, golden_winner=4)

    with np.load(io.BytesIO(files[GOLDEN]), allow_pickle=False) as golden:
        assert (golden["logits"].argmax(axis=1) == 4).all()
        assert (run(files, "bytes", golden["input:bytes"]).argmax(axis=1) == 3).all()
