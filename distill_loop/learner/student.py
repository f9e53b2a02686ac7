"""The built-in student for bytes: a byte-window net.

Reads a window of bytes whose first half is the start of a content and whose second half is its end, 256 being padding (the
input of the magika teacher). Features: a bag of hashed byte pairs of each half, and the bytes at the first 24 and last 8
places by position. In a graph these are gathers and sums, no loops; in training the bags are `embedding_bag`, with the same
weights. Shape suffixes: B batch, L window, P pairs of a half, E embedding, C classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_loop.config import LearnerSection

HEAD_PLACES, TAIL_PLACES = 24, 8
BYTE_VALUES = 257
PADDING = 256
PLACE_EMBEDDING = 16
#: A multiplicative hash of a byte pair; the prime keeps products small enough for int64 anywhere.
HASH_FACTOR, HASH_PRIME = 40_503, 65_521


class ByteWindowNet(nn.Module):
    """bytes int32 [B, L] -> logits float32 [B, C].

    Args:
        num_classes: C.
        window: L, even and at least 64.
    """

    def __init__(self, settings: LearnerSection, num_classes: int, window: int) -> None:
        super().__init__()
        self.half_window = window // 2
        self.buckets = settings.buckets
        rows = 1 + 2 * settings.buckets  # row 0 stands for pairs of padding and stays zero
        self.pairs = nn.Embedding(rows, settings.embedding, padding_idx=0)
        self.places = nn.Embedding((HEAD_PLACES + TAIL_PLACES) * BYTE_VALUES, PLACE_EMBEDDING)
        width = 2 * settings.embedding + (HEAD_PLACES + TAIL_PLACES) * PLACE_EMBEDDING
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, settings.hidden)
        self.head = nn.Linear(settings.hidden, num_classes)
        nn.init.normal_(self.pairs.weight, std=0.1)
        nn.init.normal_(self.places.weight, std=0.3)
        with torch.no_grad():
            self.pairs.weight[0].zero_()

    def forward(self, bytes_BL: Tensor) -> Tensor:
        """Return raw logits [B, C]."""
        bytes_BL = bytes_BL.to(torch.int64).clamp(0, PADDING)
        bags = [
            self._bag(bytes_BL[:, : self.half_window], offset=1),
            self._bag(bytes_BL[:, self.half_window :], offset=1 + self.buckets),
        ]
        places_BP = torch.cat([bytes_BL[:, :HEAD_PLACES], bytes_BL[:, -TAIL_PLACES:]], dim=1)
        places_BP = places_BP + BYTE_VALUES * torch.arange(HEAD_PLACES + TAIL_PLACES)
        features = torch.cat([*bags, self.places(places_BP).flatten(1)], dim=1)
        hidden = functional.gelu(self.hidden(self.norm(features)))
        logits_BC: Tensor = self.head(hidden)
        return logits_BC

    def _bag(self, half_BP: Tensor, offset: int) -> Tensor:
        """Return the summed embeddings of a half's byte pairs, scaled by the root of their number."""
        first, second = half_BP[:, :-1], half_BP[:, 1:]
        real = (first != PADDING) & (second != PADDING)
        hashed = (first * BYTE_VALUES + second) * HASH_FACTOR % HASH_PRIME % self.buckets + offset
        ids_BP = torch.where(real, hashed, torch.zeros_like(hashed))
        scale_B1 = real.sum(dim=1, keepdim=True).to(torch.float32).clamp(min=1.0).rsqrt()
        if torch.compiler.is_exporting():
            gathered_BE: Tensor = self.pairs(ids_BP).sum(dim=1) * scale_B1
            return gathered_BE
        return functional.embedding_bag(ids_BP, self.pairs.weight, mode="sum", padding_idx=0) * scale_B1
