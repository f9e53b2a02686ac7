"""The built-in student for tables: numeric columns scaled as the stream shows them, categories by hashed embeddings, an MLP.

Reads any number of inputs [B, F], FP32, FP64, integer or BOOL. Columns that `learner.tabular.categories` names, and all of an
integer input that it doesn't name, are categories: their values are hashed, so that any number will do (an index, a code, a logarithm of one).
Shape suffixes: B batch, F columns of one input, N numeric columns, K category columns, D features, C classes.
"""

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_loop.config import LearnerSection, TabularSection
from distill_loop.learner.scaling import Scaling, scaled
from distill_loop.learner.student import Student, cannot_read
from protos.errors import ConfigurationError
from protos.tensors import Array
from registry.sections import ModelSection, TensorSpec

FLOATS = ("FP16", "FP32", "FP64")
INTEGERS = ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32")
#: Values that differ by less than one over this are one category.
STEPS_PER_UNIT = 4096.0
#: Beyond this a value's steps no longer fit what is hashed.
MAX_VALUE = 2.0**40
HASH_FACTOR, HASH_PRIME = 40_503, 2_147_483_647


class TabularNet(nn.Module):
    """Columns [B, F] of each input -> logits float32 [B, C].

    Args:
        numeric, categories: columns of each input that are read as numbers, and as categories.
    """

    centre_N: Tensor
    spread_N: Tensor
    offsets_K: Tensor

    def __init__(
        self, settings: LearnerSection, numeric: list[list[int]], categories: list[list[int]], num_classes: int
    ) -> None:
        super().__init__()
        section = settings.tabular
        self.numeric = numeric
        self.categories = categories
        self.buckets = section.category_buckets
        num_numeric, num_categories = sum(map(len, numeric)), sum(map(len, categories))
        self.register_buffer("centre_N", torch.zeros(num_numeric, dtype=torch.float64))
        self.register_buffer("spread_N", torch.ones(num_numeric, dtype=torch.float64))
        width = num_numeric + num_categories * section.category_embedding
        if num_categories:
            self.values = nn.Embedding(num_categories * self.buckets, section.category_embedding)
            nn.init.normal_(self.values.weight, std=0.3)
        widths = [width] + [settings.hidden] * section.layers
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(widths))
        self.head = nn.Linear(settings.hidden, num_classes)
        self.shortcut = nn.Linear(width, num_classes, bias=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return raw logits [B, C]."""
        parts = []
        if self.centre_N.numel():
            numbers_BN = torch.cat(
                [one[:, columns].to(torch.float64) for one, columns in self._chosen(inputs, self.numeric)], 1
            )
            parts.append(scaled(numbers_BN, self.centre_N, self.spread_N))
        chosen = self._chosen(inputs, self.categories)
        if chosen:
            values_BK = torch.cat([one[:, columns].to(torch.float64) for one, columns in chosen], dim=1)
            parts.append(self.values(self._buckets_of(values_BK)).flatten(1))
        features_BD = torch.cat(parts, dim=1)
        hidden = features_BD
        for layer in self.layers:
            hidden = functional.gelu(layer(hidden))
        logits_BC: Tensor = self.head(hidden) + self.shortcut(features_BD)
        return logits_BC

    def _chosen(self, inputs: tuple[Tensor, ...], columns: list[list[int]]) -> list[tuple[Tensor, list[int]]]:
        return [(one, places) for one, places in zip(inputs, columns, strict=True) if places]

    def _buckets_of(self, values_BK: Tensor) -> Tensor:
        """Return each category's row of the embeddings; every column has rows of its own."""
        finite_BK = torch.where(torch.isfinite(values_BK), values_BK, 0.0).clamp(-MAX_VALUE, MAX_VALUE)
        steps_BK = torch.round(finite_BK * STEPS_PER_UNIT).to(torch.int64) % HASH_PRIME
        buckets_BK = steps_BK * HASH_FACTOR % HASH_PRIME % self.buckets
        return buckets_BK + torch.arange(values_BK.shape[1]) * self.buckets


def reads(model: ModelSection) -> bool:
    """Whether every input is a row of numbers of a known width."""
    return all(
        len(spec.shape) == 2 and spec.shape[1] > 0 and spec.datatype in (*FLOATS, *INTEGERS) for spec in model.inputs
    )


def build(settings: LearnerSection, model: ModelSection) -> Student:
    """Return the student.

    Raises:
        ConfigurationError: an input is not a row of numbers, or `categories` names what isn't there.
    """
    if not reads(model):
        raise cannot_read("tabular", model, "numbers [-1, F] with F fixed")
    _check_categories(settings.tabular, model)
    categories = [_categories_of(settings.tabular, spec) for spec in model.inputs]
    numeric = [
        [column for column in range(spec.shape[1]) if column not in chosen]
        for spec, chosen in zip(model.inputs, categories, strict=True)
    ]
    net = TabularNet(settings, numeric, categories, model.num_classes)

    def columns(inputs: Mapping[str, Array]) -> Array:
        parts = [
            np.asarray(inputs[spec.name][:, chosen], np.float64)
            for spec, chosen in zip(model.inputs, numeric, strict=True)
        ]
        return np.concatenate(parts, axis=1)

    facts = {
        "hidden": settings.hidden,
        "layers": settings.tabular.layers,
        "numeric_columns": sum(map(len, numeric)),
        "category_columns": sum(map(len, categories)),
    }
    scaling = Scaling(net.centre_N, net.spread_N, columns) if net.centre_N.numel() else None
    return Student("tabular", net, facts, scaling)


def _categories_of(section: TabularSection, spec: TensorSpec) -> list[int]:
    if spec.name in section.categories:
        return sorted(set(section.categories[spec.name]))
    return list(range(spec.shape[1])) if spec.datatype in INTEGERS else []


def _check_categories(section: TabularSection, model: ModelSection) -> None:
    widths = {spec.name: spec.shape[1] for spec in model.inputs}
    for name, columns in section.categories.items():
        if name not in widths:
            raise ConfigurationError(
                f"learner.tabular.categories names the input {name!r}, [model] has {', '.join(widths)}",
                fix="Name an input of [model]",
            )
        if wrong := [column for column in columns if not 0 <= column < widths[name]]:
            raise ConfigurationError(
                f"learner.tabular.categories names column {wrong[0]} of {name!r}, which has columns 0 to {widths[name] - 1}",
                fix="Count columns from 0",
            )
