"""How much memory a process holds, as Linux accounts for it; None where it doesn't say. Reads only."""

import pathlib
from typing import NamedTuple

PROC = pathlib.Path("/proc")


class Memory(NamedTuple):
    """Bytes. `resident` counts shared pages by their share (PSS), `private` only what nobody else maps."""

    resident: int
    private: int


def memory_of(pid: int) -> Memory | None:
    """Return a process's memory."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
        return Memory(kilobytes["Pss"] * 1024, private * 1024)
    except (OSError, ValueError, KeyError, IndexError):
        return None
