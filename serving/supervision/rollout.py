"""The roll-out: which worker is given which version, and when.

Decides the order. The first version of a model, and a rollback, are given to all workers at once; every other version to one
worker at a time, the next when the one before serves it. A worker that refuses a version halts its roll-out: the others keep
theirs until the refusing one, told again and again, serves it, or the pointer moves on. Models take turns, so that one whose version
hangs while it is loaded (the supervisor ends such a worker) doesn't keep the others back. What a worker was given only follows the
pointer, so versions never go back on a connection except by a rollback. A worker that was started again is given the
newest version that any worker has served. Knows no process and no pipe. Main thread.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from serving.supervision.child import Place

REMEMBERED = 16


class Worker(Protocol):
    """What the roll-out needs of a worker."""

    @property
    def places(self) -> Mapping[str, Place]: ...


class Target:
    """Where one model's pointer points, and has pointed."""

    def __init__(self) -> None:
        self.digest: str | None = None
        self.at_once = False
        self._aimed: list[str] = []
        self._served: set[str] = set()

    def aim(self, digest: str | None, *, rollback: bool = False) -> None:
        """Follow the pointer.

        Args:
            rollback: whether the decision that moved it says so; a version that was served before is one anyway.
        """
        if digest == self.digest:
            return
        self.digest = digest
        if digest is not None:
            self.at_once = rollback or digest in self._served
            self._aimed = [*(one for one in self._aimed if one != digest), digest][-REMEMBERED:]
            self._served &= set(self._aimed)

    def serves(self, digest: str) -> None:
        """Note that a worker serves a version."""
        if digest in self._aimed:
            self._served.add(digest)

    @property
    def proven(self) -> str | None:
        """The version of the newest decision that any worker has served."""
        return next((one for one in reversed(self._aimed) if one in self._served), None)


class Rollout:
    """Gives versions to workers. `places` of a worker that isn't running have nothing in them, and are left out."""

    def __init__(self, models: Sequence[str]) -> None:
        self.targets = {model: Target() for model in models}
        self._turns = list(models)

    def plan(self, workers: Sequence[Worker]) -> None:
        """Give each running worker what it is to serve next."""
        for model, target in self.targets.items():
            if target.digest is not None:
                self._give(target, [worker.places[model] for worker in workers])
        if any(place.loading for worker in workers for place in worker.places.values()):
            return
        for model in self._turns:
            target, places = self.targets[model], [worker.places[model] for worker in workers]
            if target.digest is None or any(place.refused == target.digest for place in places):
                continue
            behind = next((place for place in places if place.given != target.digest), None)
            if behind is not None:
                behind.given = target.digest
                self._turns.remove(model)
                self._turns.append(model)
                return

    def _give(self, target: Target, places: list[Place]) -> None:
        """Give what needs no turn: a rollback, a first version, and anything to a worker that has nothing yet."""
        for place in places:
            if target.at_once:
                place.given = target.digest
            elif place.given is None:
                place.given = target.proven or target.digest
