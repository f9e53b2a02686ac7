"""The built-in student for images: a small convolutional net.

Reads one FP32 or UINT8 input, [B, H, W], [B, C, H, W] or [B, H, W, C] with 1 to 4 channels. Values are scaled as the stream shows
them. Three convolutions, whose maps are averaged to at most 4 x 4 (to one value where height or width vary), a hidden layer, and a linear
shortcut from the image itself, averaged to at most 16 x 16. Shape suffixes: B batch, P channels, H, W, C classes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_loop.config import LearnerSection
from distill_loop.learner.scaling import Scaling, scaled
from distill_loop.learner.student import Student, cannot_read
from protos.tensors import Array
from registry.sections import ModelSection

MAX_CHANNELS = 4
THUMB_SIDE, MAP_SIDE = 16, 4
#: Pixels of an image that the scale is taken from.
SCALING_PIXELS = 16


class ImageNet(nn.Module):
    """image [B, ...] -> logits float32 [B, C].

    Args:
        shape: the input's, without the batch.
        last: whether channels are its last dimension.
    """

    centre_1: Tensor
    spread_1: Tensor

    def __init__(self, settings: LearnerSection, shape: tuple[int, ...], last: bool, num_classes: int) -> None:
        super().__init__()
        self.num_dimensions = len(shape)
        self.last = last
        channels, height, width = _sizes(shape, last)
        wide = 2 * settings.image.channels
        self.register_buffer("centre_1", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("spread_1", torch.ones(1, dtype=torch.float64))
        self.first = nn.Conv2d(channels, settings.image.channels, 3, padding=1)
        self.second = nn.Conv2d(settings.image.channels, wide, 3, stride=2, padding=1)
        self.third = nn.Conv2d(
            wide, wide, 3, stride=2 if min(height, width) != -1 and min(height, width) > 8 else 1, padding=1
        )
        self.thumb = _window(height, width, THUMB_SIDE)
        half = [(side + 1) // 2 if side > 0 else -1 for side in (height, width)]
        maps = half if self.third.stride == (1, 1) else [(side + 1) // 2 for side in half]
        self.pool = _window(maps[0], maps[1], MAP_SIDE)
        pooled = wide * (_pooled(maps[0], self.pool[0]) * _pooled(maps[1], self.pool[1]) if self.pool else 1)
        thumb = channels * (_pooled(height, self.thumb[0]) * _pooled(width, self.thumb[1]) if self.thumb else 1)
        self.norm = nn.LayerNorm(pooled)
        self.hidden = nn.Linear(pooled, settings.hidden)
        self.head = nn.Linear(settings.hidden, num_classes)
        self.shortcut = nn.Linear(thumb, num_classes, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return raw logits [B, C]."""
        values = scaled(image.to(torch.float64), self.centre_1, self.spread_1)
        if self.num_dimensions == 2:
            values = values.unsqueeze(1)
        elif self.last:
            values = values.permute(0, 3, 1, 2)
        maps = functional.gelu(self.first(values))
        maps = functional.gelu(self.second(maps))
        maps = functional.gelu(self.third(maps))
        features = self.norm(_averaged(maps, self.pool))
        logits_BC: Tensor = self.head(functional.gelu(self.hidden(features))) + self.shortcut(
            _averaged(values, self.thumb)
        )
        return logits_BC


def _sizes(shape: tuple[int, ...], last: bool) -> tuple[int, int, int]:
    """Return channels, height and width; a free size is -1."""
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    return (shape[2], shape[0], shape[1]) if last else (shape[0], shape[1], shape[2])


def _window(height: int, width: int, side: int) -> tuple[int, int] | None:
    """Return the window that averages a map to at most `side` x `side`; None where its size is free."""
    return (-(-height // side), -(-width // side)) if min(height, width) > 0 else None


def _pooled(size: int, window: int) -> int:
    return -(-size // window)


def _averaged(maps: Tensor, window: tuple[int, int] | None) -> Tensor:
    if window is None:
        return maps.mean(dim=(2, 3))
    if window == (1, 1):
        return maps.flatten(1)
    return functional.avg_pool2d(maps, window, ceil_mode=True, count_include_pad=False).flatten(1)


def _is_last(shape: tuple[int, ...]) -> bool:
    """Whether channels come last: the first of them may not be a number of channels."""
    return len(shape) == 3 and not 1 <= shape[0] <= MAX_CHANNELS


def reads(model: ModelSection) -> bool:
    """Whether the model's input is an image."""
    shape = model.inputs[0].shape[1:]
    if len(model.inputs) != 1 or model.inputs[0].datatype not in ("FP32", "UINT8") or len(shape) not in (2, 3):
        return False
    return len(shape) == 2 or 1 <= _sizes(shape, _is_last(shape))[0] <= MAX_CHANNELS


def build(settings: LearnerSection, model: ModelSection) -> Student:
    """Return the student.

    Raises:
        ConfigurationError: the model's input is not an image.
    """
    if not reads(model):
        raise cannot_read("image", model, "one FP32 or UINT8 [-1, H, W], [-1, C, H, W] or [-1, H, W, C], C from 1 to 4")
    spec = model.inputs[0]
    shape = spec.shape[1:]
    net = ImageNet(settings, shape, _is_last(shape), model.num_classes)

    def columns(inputs: Mapping[str, Array]) -> Array:
        pixels = inputs[spec.name].reshape(-1)
        step = max(1, len(pixels) // SCALING_PIXELS)
        return np.asarray(pixels[::step], np.float64).reshape(-1, 1)

    facts = {"hidden": settings.hidden, "channels": settings.image.channels}
    return Student("image", net, facts, Scaling(net.centre_1, net.spread_1, columns))
