"""For how long gateways' breakers to the teacher were open, from the spans in their capture reports.

Decides what counts once: reports say spans in order, an open one again and again, and all of a report again where nobody knew that it had arrived. Of each gateway only time
after what was counted last counts, in the gateway's own clock. Gateways that are silent longest are forgotten where there are very many; their time stays in the sum. One thread; part
of the checkpoint.
"""

from typing import Any

from protos import records_pb2 as records

MAX_GATEWAYS = 1024


class Breakers:
    """The breakers of one model's gateways."""

    def __init__(self) -> None:
        self._total_ns = 0
        self._counted_until: dict[str, int] = {}
        self._open: set[str] = set()

    def take(self, report: records.CaptureReport) -> None:
        """Count what a mirror's report says."""
        if not report.mirror:
            return
        gateway = report.gateway
        until = self._counted_until.pop(gateway, 0)
        self._open.discard(gateway)
        for span in report.breaker_open:
            end = span.end_unix_ns or report.time_unix_ns
            if not span.end_unix_ns:
                self._open.add(gateway)
            self._total_ns += max(0, end - max(span.start_unix_ns, until))
            until = max(until, end)
        if until:
            self._counted_until[gateway] = until  # the newest stands last
        if len(self._counted_until) > MAX_GATEWAYS:
            silent = next(iter(self._counted_until))
            del self._counted_until[silent]
            self._open.discard(silent)

    @property
    def open_s(self) -> float:
        """Seconds in which breakers were open, those of all gateways together, as far as reports have told."""
        return self._total_ns / 1e9

    @property
    def open_now(self) -> list[str]:
        """Gateways whose newest report says that their breaker is open."""
        return sorted(self._open)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"total_ns": self._total_ns, "counted_until": dict(self._counted_until), "open": self.open_now}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        self._total_ns, self._counted_until = state["total_ns"], dict(state["counted_until"])
        self._open = set(state["open"])
