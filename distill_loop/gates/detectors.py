"""Detectors that watch for ever: harm after a promotion, and a rise of disagreement.

Both are sums of e-processes, one begun at each observation (Shiryaev and Roberts; Shin, Ramdas and Rinaldo): while nothing is wrong a sum grows by one a
step on average, so it takes `run_length` observations at least, on average, until it reaches that much by chance. `advance` is the
whole arithmetic; it takes many streams at once. Decides when there is an alarm, and for how long a promotion is watched; what is then done about it others decide. One thread;
all of it is in `state_dict`.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from distill_loop.gates.evidence import BETS, Floats

#: Bets on a rise of disagreement.
RISE_BETS = np.geomspace(0.02, 0.6, 10)


def advance(sums: Floats, factors: Floats) -> Floats:
    """Return the sums after one more observation: M <- (M + 1) times its factor, for each bet (the last dimension)."""
    advanced: Floats = (sums + 1.0) * factors
    return advanced


def harm_factors(advantage: Any, m: float = 0.0) -> Floats:
    """Return each bet's factor for D in {-1, 0, 1}, against "no worse than by m": its mean is at most 1 then."""
    factors: Floats = 1.0 + BETS * (-np.asarray(advantage, np.float64)[..., None] - m) / (1.0 + m)
    return factors


def rise_factors(disagrees: Any, rate: float) -> Floats:
    """Return each bet's factor for x in {0, 1}, against "disagreement of at most `rate`"."""
    factors: Floats = 1.0 + RISE_BETS * (np.asarray(disagrees, np.float64)[..., None] - rate) / rate
    return factors


@dataclasses.dataclass(frozen=True)
class HarmRule:
    """When a promotion is taken back.

    Args:
        run_length: disagreements that pass on average, at least, before a version that is no worse is taken back.
        margin: it must be worse by more than this, on the requests where the two differ.
        max_requests: of the newest promotion that are watched.
    """

    run_length: float = 1e6
    margin: float = 0.0
    max_requests: int = 50_000


class HarmDetector:
    """Watches the version that serves against the one before it. Requests on which both agree say nothing, and aren't asked about."""

    def __init__(self, rule: HarmRule = HarmRule()) -> None:
        self.rule = rule
        self.num_requests = 0
        self.wins = 0
        self.losses = 0
        self.num_asked = 0
        self._sums: Floats = np.zeros(len(BETS))

    def observe_agreeing(self, num: int = 1) -> None:
        """Take note of requests on which both versions gave one class."""
        self.num_requests += num

    def observe(self, advantage: int | None) -> None:
        """Take in a request on which they differ: 1 where only the version that serves is right, -1 where only the one before is, 0 where neither.

        None where the teacher gave no answer: no evidence.
        """
        self.num_requests += 1
        if advantage is None or self.alarm:
            return
        self.num_asked += 1
        self.wins += advantage > 0
        self.losses += advantage < 0
        self._sums = advance(self._sums, harm_factors(advantage, self.rule.margin))

    @property
    def evidence(self) -> float:
        """The sum's mean over the bets; an alarm at `run_length`."""
        return float(self._sums.mean())

    @property
    def alarm(self) -> bool:
        """Whether the version that serves is to be taken back."""
        return self.evidence >= self.rule.run_length

    @property
    def over(self) -> bool:
        """Whether the promotion has been watched long enough, without an alarm."""
        return not self.alarm and self.num_requests >= self.rule.max_requests

    def as_evidence(self) -> dict[str, Any]:
        """Return its numbers, for a ledger line."""
        return {
            **dataclasses.asdict(self.rule),
            "evidence": self.evidence,
            "requests": self.num_requests,
            "asked": self.num_asked,
            "wins": self.wins,
            "losses": self.losses,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        counts = [self.num_requests, self.num_asked, self.wins, self.losses]
        return {"rule": dataclasses.asdict(self.rule), "counts": counts, "sums": self._sums.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        self.rule = HarmRule(**state["rule"])
        self.num_requests, self.num_asked, self.wins, self.losses = state["counts"]
        self._sums = np.array(state["sums"], np.float64)


@dataclasses.dataclass(frozen=True)
class RiseRule:
    """When disagreement between teacher and student is an alarm.

    Args:
        rate: disagreement that is no reason for one: the certified rate, and what is tolerated beside it.
        run_length: rows of the uniform arm that pass on average, at least, before a false alarm.
    """

    rate: float
    run_length: float = 1e5

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"a rate of disagreement of {self.rate:g} is not between 0 and 1")


class DisagreementDetector:
    """Watches disagreement on the uniform arm's rows. After an alarm it stays one until it begins anew."""

    def __init__(self, rule: RiseRule) -> None:
        self.begin(rule)

    def begin(self, rule: RiseRule) -> None:
        """Begin anew: another version serves, another teacher answers, or an alarm was heard."""
        self.rule = rule
        self.num_rows = 0
        self.num_disagreeing = 0
        self._sums: Floats = np.zeros(len(RISE_BETS))

    def observe(self, disagrees: bool) -> None:
        """Take in a row of the uniform arm that the teacher answered."""
        if self.alarm:
            return
        self.num_rows += 1
        self.num_disagreeing += disagrees
        self._sums = advance(self._sums, rise_factors(disagrees, self.rule.rate))

    @property
    def evidence(self) -> float:
        """The sum's mean over the bets; an alarm at `run_length`."""
        return float(self._sums.mean())

    @property
    def alarm(self) -> bool:
        """Whether disagreement has risen."""
        return self.evidence >= self.rule.run_length

    def as_evidence(self) -> dict[str, Any]:
        """Return its numbers, for a ledger line and for the status."""
        log_e = math.log(self.evidence) if self.evidence else None
        return {
            **dataclasses.asdict(self.rule),
            "log_e": log_e,
            "rows": self.num_rows,
            "disagreeing": self.num_disagreeing,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        counts = [self.num_rows, self.num_disagreeing]
        return {"rule": dataclasses.asdict(self.rule), "counts": counts, "sums": self._sums.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        self.rule = RiseRule(**state["rule"])
        self.num_rows, self.num_disagreeing = state["counts"]
        self._sums = np.array(state["sums"], np.float64)
