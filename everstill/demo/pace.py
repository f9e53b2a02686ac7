"""The client's pace where a stream is played faster than real time: it waits for a loop that falls behind, and says how long.

Decides when the client waits: until the first version serves, once that has been asked for enough of the teacher's answers;
while the gateway hasn't followed yet what the loop decided (a trial, a swap); and while captured rows, messages or optimizer steps pile up. At the pace of real traffic none of it would; without waiting a fast
stream would show a loop that is always late. Called by the story before each request; one thread.
"""

import dataclasses

from everstill.demo.watch import View

#: What may wait before the client does: messages in the stream, optimizer steps owed, bytes in ring and spool.
MAX_LAG, MAX_STEPS_DUE, MAX_WAITING_BYTES = 16, 24.0, 2**16
#: The longest that one wait may last, in seconds; after that the client goes on and waits no more.
PATIENCE_S = 60.0


@dataclasses.dataclass
class Pace:
    """When to wait.

    Args:
        waits: False never waits.
        bootstrap_pairs: requests that the first version is made from.
    """

    waits: bool
    bootstrap_pairs: int
    waited_s: float = 0.0
    _began_s: float | None = None

    def must_wait(self, index: int, view: View, now_s: float) -> bool:
        """Return whether request `index` has to wait, as the service is now; call it again until it hasn't."""
        if not (self.waits and self._behind(index, view)):
            self._end(now_s)
            return False
        if self._began_s is None:
            self._began_s = now_s
        if now_s - self._began_s > PATIENCE_S:
            self._end(now_s)
            self.waits = False
            return False
        return True

    def _behind(self, index: int, view: View) -> bool:
        if not view.gateway.get("live"):
            return index >= self.bootstrap_pairs
        loop = view.loop
        return (
            not _followed(view)
            or loop.get("lag", 0) > MAX_LAG
            or loop.get("steps_due", 0.0) > MAX_STEPS_DUE
            or view.waiting_bytes > MAX_WAITING_BYTES
        )

    def _end(self, now_s: float) -> None:
        if self._began_s is not None:
            self.waited_s += now_s - self._began_s
            self._began_s = None


def _followed(view: View) -> bool:
    """Return whether the gateway serves the version and runs the trial that the loop last told of."""
    told, trial = view.loop.get("live"), (view.loop.get("trial") or {}).get("trial_id")
    return (not told or told == view.gateway["live"]) and trial == view.gateway.get("trial")
