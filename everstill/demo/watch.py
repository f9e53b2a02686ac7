"""What the demo sees of the running service: status objects and ledger through the registry, counters through /metrics."""

import contextlib
import dataclasses
from typing import Any

from everstill import metrics
from protos.errors import EverstillError
from registry.ledger import Ledger, Line
from registry.status import read_statuses
from registry.store import ObjectStore

DROPPED = "everstill_shadow_dropped_total"
WAITING_BYTES = ("everstill_shadow_ring_bytes", "everstill_shadow_spool_bytes")


@dataclasses.dataclass
class View:
    """The newest of everything; what couldn't be read is as it was before."""

    gateway: dict[str, Any] = dataclasses.field(default_factory=dict)
    loop: dict[str, Any] = dataclasses.field(default_factory=dict)
    lines: list[Line] = dataclasses.field(default_factory=list)
    teacher_calls: int = 0
    dropped: int = 0
    #: What waits in ring and spool.
    waiting_bytes: int = 0


class Watch:
    """Looks at one model's service."""

    def __init__(self, store: ObjectStore, model: str, gateway_id: str) -> None:
        self._store = store
        self._model = model
        self._gateway_id = gateway_id
        self.view = View()

    def glance(self) -> View:
        """Bring the status objects alone up to date, which is cheap."""
        with contextlib.suppress(EverstillError):
            statuses = read_statuses(self._store, self._model)
            self.view.gateway = statuses.get(self._gateway_id, {})
            self.view.loop = statuses.get("loop", {})
        return self.view

    def look(self) -> View:
        """Bring the view up to date."""
        self.glance()
        try:
            self.view.lines = Ledger(self._store, self._model).lines()
        except EverstillError:
            return self.view
        if address := self.view.gateway.get("metrics_address"):
            counters = metrics.read(address, self._model) or {}
            self.view.teacher_calls = metrics.traffic_of(counters).asked or self.view.teacher_calls
            self.view.waiting_bytes = int(sum(counters.get(name, 0) for name in WAITING_BYTES))
            self.view.dropped = int(counters.get(DROPPED, 0)) or self.view.dropped
        return self.view
