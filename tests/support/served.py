"""A model's registry with some versions that served one after the other, as a loop would have left it."""

import dataclasses
import functools
import pathlib

from obstore.store import MemoryStore

from registry.bundle import write_bundle
from registry.fetching import Policy
from registry.ledger import Facts, Kind, Ledger, Line
from registry.orders import Order, OrderKind, Outcome, carry_out
from registry.pointers import Pointers
from registry.standing import Standing, apply_ledger
from registry.store import ObjectStore
from tests.support.students import make_student_files

MODEL = "filetypes"
FACTS = Facts("c" * 64, "0.1.0+test")
ANY = Policy()


@dataclasses.dataclass
class Served:
    """The registry, and its versions' digests in their order of service."""

    backend: MemoryStore
    store: ObjectStore
    cache: pathlib.Path
    digests: list[str]

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        return Ledger(self.store, MODEL)

    @property
    def live(self) -> str:
        """Digest that the live pointer names."""
        live = Pointers(self.store, MODEL).live()
        assert live is not None
        return live.digest

    @property
    def standing(self) -> Standing:
        """Where the ledger stands."""
        return Standing.of(self.ledger.lines())

    def kinds(self) -> list[str]:
        """Return the lines' kinds after those that the versions came by."""
        return [line.kind for line in self.ledger.lines()][len(self.digests) :]

    def publish(self, winner: int) -> str:
        """Publish one more version, which nothing was decided about, and return its digest."""
        return write_bundle(self.store, _files(winner))

    def append(self, kind: Kind, digest: str, name: str, **evidence: object) -> Line:
        """Write a line as a loop would."""
        previous = self.standing.live
        line = self.ledger.append(
            kind=kind, trial_id=name, digest=digest, previous_digest=previous, evidence=evidence, actor="loop epoch 1"
        )
        apply_ledger(self.ledger, Pointers(self.store, MODEL), 1)
        return line

    def order(
        self, kind: OrderKind, store: ObjectStore | None = None, policy: Policy = ANY, **asked: object
    ) -> Outcome:
        """Give an order as somebody called ann."""
        order = Order(kind, **{"actor": "ann@host", "reason": "a test", **asked})  # type: ignore[arg-type]
        return carry_out(store or self.store, MODEL, order, cache=self.cache, policy=policy, facts=FACTS)


def serve(folder: pathlib.Path, num: int = 3) -> Served:
    """Return a registry in memory in which `num` versions served, the first one a bootstrap, the others promoted."""
    backend = MemoryStore()
    served = Served(backend, ObjectStore(backend), folder / "cache", [])
    for place in range(num):
        digest = served.publish(place)
        served.append("promote" if place else "bootstrap", digest, f"t-{place}")
        served.digests.append(digest)
    return served


@functools.cache
def _files(winner: int) -> dict[str, bytes]:
    return make_student_files(winner=winner)
