"""What the demo feeds its teacher is what the teacher's own package would: same kinds, same scores."""

import importlib.util
import json
import pathlib

import numpy as np
import onnxruntime
import pytest
from magika import Magika

from everstill.recipes import filetypes
from everstill.recipes.kinds import MAKERS

SOURCE = pathlib.Path(filetypes.__file__).read_bytes()
CONTENTS = {name: make(SOURCE, 3) for name, make in MAKERS.items()} | {
    "python": SOURCE,
    "padded": b" \n\t" + SOURCE + b"\n \n",
    "long": SOURCE * 9,
    "prose": b"It was a dark and stormy night. " * 9,
}


@pytest.fixture(scope="module")
def folder() -> pathlib.Path:
    spec = importlib.util.find_spec("magika")
    assert spec is not None
    assert spec.origin is not None
    return pathlib.Path(spec.origin).parent / "models/standard_v3_3"


@pytest.fixture(scope="module")
def session(folder: pathlib.Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(folder / "model.onnx", options)


@pytest.fixture(scope="module")
def magika() -> Magika:
    return Magika()


@pytest.mark.parametrize("name", CONTENTS)
def test_a_content_is_the_kind_that_magika_says(
    name: str, folder: pathlib.Path, session: onnxruntime.InferenceSession, magika: Magika
) -> None:
    labels = json.loads((folder / "config.min.json").read_text())["target_labels_space"]

    probabilities_BC = session.run(["target_label"], {"bytes": filetypes.features(CONTENTS[name])})[0]

    expected = magika.identify_bytes(CONTENTS[name])
    assert labels[int(np.argmax(probabilities_BC))] == expected.prediction.dl.label
    assert float(probabilities_BC.max()) == pytest.approx(expected.prediction.score, abs=1e-4)
