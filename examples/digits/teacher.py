"""Train a teacher with scikit-learn and write it as ONNX: `python examples/digits/teacher.py teacher.onnx`."""

import pathlib
import sys

import numpy as np
from images import draw
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier


def main(path: pathlib.Path) -> None:
    """Fit a wide network on drawn images of all ten digits."""
    images, digits = draw(np.random.default_rng(0), 8000, tuple(range(10)))
    unseen, truth = draw(np.random.default_rng(1), 1000, tuple(range(10)))
    teacher = MLPClassifier((512, 512), max_iter=100, early_stopping=True, random_state=0).fit(images, digits)
    model = to_onnx(teacher, images[:1], options={"zipmap": False})
    path.write_bytes(model.SerializeToString())
    print(f"{path}: right on {teacher.score(unseen, truth):.1%} of new draws, {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
