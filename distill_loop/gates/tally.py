"""What a trial's rows come to: counters for each slice, labels, and scores. Order-free, and two tallies of different rows merge by addition.

Decides how a row without the teacher's answer counts: as a loss where promotion is asked, and not at all where harm or futility is. Pure.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping

from distill_loop.gates.evidence import Counters

NOTHING = Counters(0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Rows of a slice. pending: those of `total` that the teacher hasn't answered, and perhaps never will."""

    wins: int = 0
    losses: int = 0
    pending: int = 0
    total: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*map(operator.add, dataclasses.astuple(self), dataclasses.astuple(other)))

    @property
    def certain(self) -> Counters:
        """Rows whose outcome is known."""
        return Counters(self.wins, self.losses, self.total - self.pending)

    @property
    def cautious(self) -> Counters:
        """Every row; one without the teacher's answer counts as a loss."""
        return Counters(self.wins, self.losses + self.pending, self.total)


@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts of each slice that the rule knows, and of all other requests together (`beside`).

    labels: wins and losses by true labels, of the rows that have one. brier: by how much the candidate's Brier score to the teacher was
    better, of each row of the uniform arm that the teacher answered.
    """

    slices: Mapping[str, Counts] = dataclasses.field(default_factory=dict)
    beside: Counts = Counts()
    labels: Counters = NOTHING
    brier: tuple[float, ...] = ()

    @classmethod
    def of(cls, certain: Counters, pending: int = 0) -> "Tally":
        """Return the tally of counters alone."""
        return cls(beside=Counts(certain.wins, certain.losses, pending, certain.total + pending))

    def __add__(self, other: "Tally") -> "Tally":
        slices = {name: self.slice(name) + other.slice(name) for name in {**self.slices, **other.slices}}
        return Tally(slices, self.beside + other.beside, self.labels + other.labels, self.brier + other.brier)

    @functools.cached_property
    def overall(self) -> Counts:
        """All requests together."""
        return sum(self.slices.values(), self.beside)

    def slice(self, name: str) -> Counts:
        """Return what is known of a slice."""
        return self.slices.get(name, Counts())
