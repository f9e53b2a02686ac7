"""The recipe digits: scikit-learn's handwritten digits, 8x8 pixels; the drift is that pictures come inverted.

Decides how many different rows are made of 1,797 pictures: each is a real one, shifted by a pixel at most, of another strength and with
noise, all by the seed. Before the drift ink is dark on light; after it four of five pictures are inverted, as from another
scanner. The teacher, made here, was shown both; the first student wasn't. It is a small test of images, not a claim about digits.
"""

import pathlib
import warnings
from typing import Any

import numpy as np
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from everstill.recipes.recipe import Material, Order, Recipe
from protos.tensors import Array

#: Pixels on a side, scikit-learn's darkest, and the noise that is put on one scaled to 0 to 1.
SIDE, INK, NOISE = 8, 16.0, 0.03
#: Share of pictures after the drift that still come as before: the old world doesn't vanish.
OLD_SHARE = 0.2
#: Altered pictures that the teacher is fitted on, half of them inverted.
TEACHER_ROWS = 12_000
TEACHER_LAYERS, TEACHER_PASSES = (256, 128), 25
TEACHER_FILE = "teacher.onnx"
#: Name of the converted model's input, and the ONNX operators' version that it is written in.
FLAT, OPSET = "pixels", 18
#: ONNX's number for int64 tensors.
ONNX_INT64 = 7


def gather(order: Order) -> Material:
    """Return the stream, having fitted the teacher and written it to the folder."""
    order.on_progress("fitting the teacher on scikit-learn's digits")
    teacher = order.folder / TEACHER_FILE
    make_teacher(teacher)
    pictures, drift = stream(order)
    return Material([{"image": one[None]} for one in pictures], (drift,), str(teacher), tuple("0123456789"))


def stream(order: Order) -> tuple[Array, int]:
    """Return the pictures in stream order, float32 [rows, 8, 8], and the row at which they begin to come inverted."""
    rng = np.random.default_rng([order.seed, 1])
    drift = round(order.num_requests * order.drift_share)
    inverted = np.arange(order.num_requests) >= drift
    inverted &= rng.random(order.num_requests) >= OLD_SHARE
    return altered(order.num_requests, inverted, rng)[0], drift


def altered(num_rows: int, inverted: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return altered real pictures float32 [rows, 8, 8], ink 0 to 1, and their digits.

    Args:
        inverted: bool [rows], which are shown inverted.
    """
    digits = load_digits()
    chosen = rng.integers(len(digits.images), size=num_rows)
    pictures = digits.images[chosen] / INK
    framed = np.pad(pictures, ((0, 0), (1, 1), (1, 1)))
    down, right = rng.integers(0, 3, size=(2, num_rows))
    rows = (down[:, None] + np.arange(SIDE))[:, :, None]
    columns = (right[:, None] + np.arange(SIDE))[:, None, :]
    pictures = framed[np.arange(num_rows)[:, None, None], rows, columns]
    pictures = pictures * rng.uniform(0.6, 1.0, size=(num_rows, 1, 1))
    pictures = (pictures + rng.normal(0.0, NOISE, size=pictures.shape)).clip(0.0, 1.0)
    pictures[inverted] = 1.0 - pictures[inverted]
    return pictures.astype(np.float32), digits.target[chosen]


def make_teacher(path: pathlib.Path) -> None:
    """Fit a teacher that knows both kinds of picture and write it: image FP32 [-1, 8, 8] to probabilities FP32 [-1, 10]."""
    pictures, digits = altered(TEACHER_ROWS, np.arange(TEACHER_ROWS) % 2 == 1, np.random.default_rng(0))
    model = MLPClassifier(
        TEACHER_LAYERS, random_state=0, max_iter=TEACHER_PASSES, tol=0.0, n_iter_no_change=TEACHER_PASSES
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of passes is the bound, and is meant
        model.fit(pictures.reshape(TEACHER_ROWS, -1), digits)
    converted = convert_sklearn(
        model,
        initial_types=[(FLAT, FloatTensorType([None, SIDE * SIDE]))],
        options={id(model): {"zipmap": False}},
        target_opset=OPSET,
    )
    _take_images(converted.graph)
    path.write_bytes(converted.SerializeToString())


def _take_images(graph: Any) -> None:
    """Let a converted graph take images [-1, 8, 8]: a Reshape to its flat pixels before everything else."""
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.add(op_type="Reshape", input=["image", "flat_shape"], output=[FLAT])
    graph.node.extend(nodes)
    graph.initializer.add(name="flat_shape", data_type=ONNX_INT64, dims=[2], int64_data=[-1, SIDE * SIDE])
    graph.input[0].name = "image"
    dimensions = graph.input[0].type.tensor_type.shape.dim
    dimensions[0].dim_param, dimensions[1].dim_value = "batch", SIDE
    dimensions.add(dim_value=SIDE)


RECIPE = Recipe(
    name="digits",
    summary="images: handwritten digits of 8x8 pixels, then the same inverted",
    num_requests=6000,
    whole=6000,
    requests_per_s=60.0,
    drift_share=0.5,
    requests_for_a_swap=1000,
    gathering="altering scikit-learn's handwritten digits; inverted ones come later",
    rows_are="pictures",
    after_drift="four of five pictures came inverted",
    gather=gather,
    scoring_batch=32,
    waits=True,
)
