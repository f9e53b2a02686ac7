"""Progressive agreement of the served student with the teacher: scored on each pair before it is learned from.

Only the uniform arm is used, each row weighted by one over its sampling probability, so the estimate is unbiased for the traffic
that the uniform arm could have sampled, whatever other arms did. The interval is Wilson's at 95 %, on the effective number of
rows (Kish). One thread.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

Z_95 = 1.959964


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A share with its interval; num: rows it rests on."""

    estimate: float
    low: float
    high: float
    num: int


def weighted_share(rows: Iterable[tuple[bool, float]]) -> Estimate | None:
    """Return the weighted share of true rows, or None without rows. Rows are (value, weight), weights positive."""
    rows = list(rows)
    total = sum(weight for _, weight in rows)
    if not total:
        return None
    share = sum(weight for value, weight in rows if value) / total
    effective = total**2 / sum(weight**2 for _, weight in rows)
    low, high = wilson(share, effective)
    return Estimate(share, low, high, len(rows))


def wilson(share: float, num: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `num` rows."""
    square = Z_95**2
    centre = (share + square / (2 * num)) / (1 + square / num)
    half = Z_95 * math.sqrt(share * (1 - share) / num + square / (4 * num**2)) / (1 + square / num)
    return max(0.0, centre - half), min(1.0, centre + half)


class ProgressiveAgreement:
    """Agreement over the newest rows.

    Args:
        window: rows.
    """

    def __init__(self, window: int) -> None:
        self._rows: collections.deque[tuple[bool, float]] = collections.deque(maxlen=window)

    def observe(self, agrees: bool, probability: float) -> None:
        """Take in one row that the uniform arm sampled with this probability."""
        self._rows.append((agrees, 1.0 / probability))

    def estimate(self) -> Estimate | None:
        """Return the newest rows' estimate, or None before the first."""
        return weighted_share(self._rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows as plain values."""
        return {"rows": [[agrees, weight] for agrees, weight in self._rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        self._rows.clear()
        self._rows.extend((agrees, weight) for agrees, weight in state["rows"])
