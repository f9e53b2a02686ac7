"""Endless handwritten digits: scikit-learn's 1,797 real images, each draw shifted by up to a pixel and lit a little differently."""

import numpy as np
from sklearn.datasets import load_digits

DIGITS = load_digits()


def draw(random: np.random.Generator, num: int, kinds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return images float32 [num, 64] of these kinds of digit, and which digit each is."""
    places = random.choice(np.flatnonzero(np.isin(DIGITS.target, kinds)), num)
    images = np.zeros((num, 8, 8), np.float32)
    for row, place in enumerate(places):
        down, right = random.integers(-1, 2, size=2)
        images[row] = np.roll(DIGITS.images[place], (down, right), axis=(0, 1))
    images = images * random.uniform(0.7, 1.0, (num, 1, 1)) + random.normal(0, 0.5, images.shape)
    return images.reshape(num, 64).astype(np.float32), DIGITS.target[places]
