"""Which slices there are, and how large: what the loop has seen of them when a candidate is frozen.

Decides which slices a trial must certify: those that it expects enough requests of. Only rows that any request could have been count (the uniform arm's, weighted,
and those that passed through), the newest of them. A slice is what a caller says, so the number of those that are kept apart is
bounded: the largest ones. One thread; part of the checkpoint.
"""

import collections
from typing import Any

#: Newest rows that the shares rest on, and slices that a trial keeps apart.
WINDOW, MAX_SLICES = 4096, 32


class SliceShares:
    """Shares of the traffic, by slice."""

    def __init__(self, window: int = WINDOW) -> None:
        self._rows: collections.deque[tuple[str, float]] = collections.deque(maxlen=window)

    def observe(self, slice_: str, probability: float) -> None:
        """Take in a row that was sampled with this probability, whatever was in it."""
        self._rows.append((slice_, 1.0 / probability))

    def shares(self) -> dict[str, float]:
        """Return the shares of the largest slices, largest first; empty where there is no more than one slice."""
        weights: dict[str, float] = {}
        for name, weight in self._rows:
            weights[name] = weights.get(name, 0.0) + weight
        if len(weights) < 2:
            return {}
        total = sum(weights.values())
        ordered = sorted(weights.items(), key=lambda one: (-one[1], one[0]))
        return {name: weight / total for name, weight in ordered[:MAX_SLICES]}

    def split(self, trial_rows: int, large_rows: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the large slices and the small ones.

        Args:
            trial_rows: requests that a trial may have.
            large_rows: requests from which a slice of it is large.
        """
        shares = self.shares()
        large = tuple(name for name, share in shares.items() if share * trial_rows >= large_rows)
        return large, tuple(name for name in shares if name not in large)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"rows": [[name, weight] for name, weight in self._rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        self._rows.clear()
        self._rows.extend((name, weight) for name, weight in state["rows"])
