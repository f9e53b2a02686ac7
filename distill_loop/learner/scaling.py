"""Scaling: centre and spread of numeric columns, as the stream shows them. Robust: medians, so that a stray value moves nothing.

Decides when a scale is taken: at 16 rows, and again whenever twice as many were seen, from the newest 1,024. In between it stands,
since a moved scale changes what the net has learned to read. Lives in buffers of the net, so a graph carries it. One thread; its
rows are part of the checkpoint. Shape suffixes: N rows, F columns.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protos.tensors import Array

FIRST_ROWS, NEWEST_ROWS = 16, 1024
#: Half of a normal distribution lies within this many standard deviations on both sides of its centre.
QUARTILES_PER_DEVIATION = 1.349
QUARTERS = (0.25, 0.5, 0.75)
LEAST_SPREAD = 1e-6


class Scaling:
    """Keeps `centre_F` and `spread_F` of a net up to date.

    Args:
        columns: makes float64 rows [n, F] of a pair's inputs; values that are not finite don't count.
    """

    def __init__(self, centre_F: Tensor, spread_F: Tensor, columns: Callable[[Mapping[str, Array]], Array]) -> None:
        self._centre_F = centre_F
        self._spread_F = spread_F
        self._columns = columns
        self._rows_NF = np.full((NEWEST_ROWS, len(centre_F)), np.nan)
        self._num_seen = 0
        self._due = FIRST_ROWS

    def observe(self, inputs: Mapping[str, Array]) -> None:
        """Take in rows of inputs."""
        rows_NF = self._columns(inputs)
        while len(rows_NF):
            place = self._num_seen % NEWEST_ROWS
            num = min(len(rows_NF), NEWEST_ROWS - place, self._due - self._num_seen)
            self._rows_NF[place : place + num] = rows_NF[:num]
            self._num_seen += num
            rows_NF = rows_NF[num:]
            if self._num_seen >= self._due:
                self._due = 2 * self._num_seen
                self._take()

    def _take(self) -> None:
        rows_NF = self._rows_NF[: self._num_seen]
        finite_NF = np.isfinite(rows_NF)
        whole_F = finite_NF.all(axis=0)
        whole = iter(np.quantile(rows_NF[:, whole_F], QUARTERS, axis=0).T.tolist() if whole_F.any() else ())
        for column, is_whole in enumerate(whole_F.tolist()):
            values_N = rows_NF[finite_NF[:, column], column]
            if not values_N.size:
                continue
            low, centre, high = next(whole) if is_whole else np.quantile(values_N, QUARTERS).tolist()
            spread = (high - low) / QUARTILES_PER_DEVIATION
            if spread < LEAST_SPREAD:  # more than half of the rows are alike: the others must not look far away
                spread = float(np.std(values_N))
            self._centre_F[column] = centre
            self._spread_F[column] = spread if spread >= LEAST_SPREAD else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return what isn't in the net's own state."""
        return {
            "rows": torch.from_numpy(self._rows_NF[: self._num_seen].copy()),
            "num_seen": self._num_seen,
            "due": self._due,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        self._num_seen, self._due = state["num_seen"], state["due"]
        rows_NF = state["rows"].numpy()
        self._rows_NF[:] = np.nan
        self._rows_NF[: len(rows_NF)] = rows_NF


def scaled(values_BF: Tensor, centre_F: Tensor, spread_F: Tensor) -> Tensor:
    """Return float32 values around 0, far ones drawn in logarithmically; NaN and infinity read as the centre.

    The difference is taken before the precision is cut: FP64 columns may be large and close together.
    """
    finite_BF = torch.isfinite(values_BF)
    centred_BF = torch.where(finite_BF, values_BF, centre_F) - centre_F
    ratio_BF = (centred_BF / spread_F).to(torch.float32)
    return torch.sign(ratio_BF) * torch.log1p(ratio_BF.abs())
