"""How much memory a process holds, as Linux accounts for it; None where it doesn't say. Main thread of the gateway's parent.

Decides how often it is looked up: the answer is a walk through the process's pages, during which it can map no other.
"""

import pathlib
import time
from typing import NamedTuple

PROC = pathlib.Path("/proc")
#: A process's memory is looked up at most so often, in seconds.
INTERVAL_S = 10.0


class Memory(NamedTuple):
    """Bytes. `resident` counts shared pages by their share (PSS), `private` only what nobody else maps."""

    resident: int
    private: int


class Memories:
    """Remembers what processes held when they were looked at last."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[float, Memory | None]] = {}

    def of(self, pid: int) -> Memory | None:
        """Return a process's memory, not older than the interval."""
        now = time.monotonic()
        looked_at, memory = self._known.get(pid, (0.0, None))
        if memory is None or now - looked_at > INTERVAL_S:
            self._known = {one: known for one, known in self._known.items() if now - known[0] <= 2 * INTERVAL_S}
            memory = memory_of(pid)
            self._known[pid] = (now, memory)
        return memory


def memory_of(pid: int) -> Memory | None:
    """Return a process's memory now."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
        return Memory(kilobytes["Pss"] * 1024, private * 1024)
    except (OSError, ValueError, KeyError, IndexError):
        return None
