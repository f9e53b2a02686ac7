"""The built-in student for text and token ids: bags of hashed n-grams.

Reads text (BYTES, as a window of bytes) or integer token ids [B, T], with an input that masks them where there is one. Each length
of n-gram has a bag of its own: embeddings gathered by hash and summed, no loop, places that are padding or masked left out, so the
answer doesn't depend on how far a row is filled up. The bags are normalised and go through a hidden layer, with a linear
shortcut beside it, which answers a new class after few pairs. Shape suffixes: B batch, T places, E embedding, F features, C classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_loop.config import LearnerSection
from distill_loop.learner.student import Fact, Student, cannot_read
from protos.tensors import TEXT_PADDING
from registry.sections import ModelSection, TensorSpec

TEXT_ORDERS, TOKEN_ORDERS = (1, 2, 3, 4), (1, 2)
INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32")
#: A rolling multiplicative hash; the prime keeps products inside int64 anywhere.
HASH_FACTOR, HASH_PRIME = 1_000_003, 2_147_483_647


class NgramsNet(nn.Module):
    """ids integer [B, T], and perhaps a mask [B, T] (0: not there) -> logits float32 [B, C].

    Args:
        padding: the id that stands for nothing.
        mask_place: which of two inputs is the mask.
    """

    def __init__(
        self, settings: LearnerSection, orders: tuple[int, ...], num_classes: int, padding: int, mask_place: int | None
    ) -> None:
        super().__init__()
        self.orders = orders
        self.buckets = settings.buckets
        self.padding = padding
        self.mask_place = mask_place
        width = len(orders) * settings.embedding
        self.grams = nn.Embedding(1 + len(orders) * settings.buckets, settings.embedding, padding_idx=0)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, settings.hidden)
        self.head = nn.Linear(settings.hidden, num_classes)
        self.shortcut = nn.Linear(width, num_classes, bias=False)
        nn.init.normal_(self.grams.weight, std=0.1)
        with torch.no_grad():
            self.grams.weight[0].zero_()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return raw logits [B, C]."""
        ids_BT = inputs[0 if self.mask_place != 0 else 1].to(torch.int64)
        real_BT = ids_BT != self.padding
        if self.mask_place is not None:
            real_BT = real_BT & (inputs[self.mask_place] != 0)
        features_BF = self.norm(
            torch.cat([self._bag(place, ids_BT, real_BT) for place in range(len(self.orders))], dim=1)
        )
        logits_BC: Tensor = self.head(functional.gelu(self.hidden(features_BF))) + self.shortcut(features_BF)
        return logits_BC

    def _bag(self, place: int, ids_BT: Tensor, real_BT: Tensor) -> Tensor:
        """Return the bag [B, E] of one length of n-gram: the sum over its root number, so bags of few and many are alike."""
        hash_BT, whole_BT = ids_BT % HASH_PRIME, real_BT
        for step in range(1, self.orders[place]):
            hash_BT = (hash_BT * HASH_FACTOR + _shifted(ids_BT, step)) % HASH_PRIME
            whole_BT = whole_BT & _shifted(real_BT.to(torch.int64), step).to(torch.bool)
        rows_BT = torch.where(whole_BT, hash_BT % self.buckets + (1 + place * self.buckets), 0)
        number_B1 = whole_BT.sum(dim=1, keepdim=True).to(torch.float32)
        bag_BE: Tensor = self.grams(rows_BT).sum(dim=1) * number_B1.clamp(min=1.0).rsqrt()
        return bag_BE


def _shifted(ids_BT: Tensor, step: int) -> Tensor:
    """Return what stands `step` places later, 0 beyond the end: rows keep their length, so a short one is no special case."""
    return functional.pad(ids_BT, (0, step))[:, step:]


def mask_place_of(model: ModelSection) -> int | None:
    """Return which input is the mask: the one whose name says so, else the second; None where there is one input."""
    if len(model.inputs) == 1:
        return None
    return next((place for place, spec in enumerate(model.inputs) if "mask" in spec.name.lower()), 1)


def reads(model: ModelSection) -> bool:
    """Whether the model's inputs are a text, or token ids and perhaps their mask."""
    first = model.inputs[0]
    if first.datatype == "BYTES":
        return len(model.inputs) == 1 and first.shape[1:] in ((), (1,))
    return len(model.inputs) <= 2 and all(_is_row_of_integers(spec) for spec in model.inputs)


def _is_row_of_integers(spec: TensorSpec) -> bool:
    return spec.datatype in (*INTEGERS, "BOOL") and len(spec.shape) == 2


def build(settings: LearnerSection, model: ModelSection) -> Student:
    """Return the student.

    Raises:
        ConfigurationError: the model's inputs are neither text nor token ids.
    """
    if not reads(model):
        raise cannot_read(
            "ngrams", model, "one BYTES [-1], or integer token ids [-1, T] and perhaps a mask of that shape"
        )
    text = model.inputs[0].datatype == "BYTES"
    mask_place = mask_place_of(model)
    padding = TEXT_PADDING if text else int(model.inputs[0 if mask_place != 0 else 1].padding)
    orders = settings.ngrams.orders or (TEXT_ORDERS if text else TOKEN_ORDERS)
    facts: dict[str, Fact] = {
        "hidden": settings.hidden,
        "embedding": settings.embedding,
        "buckets": settings.buckets,
        "orders": ",".join(map(str, orders)),
    }
    return Student("ngrams", NgramsNet(settings, orders, model.num_classes, padding, mask_place), facts)
