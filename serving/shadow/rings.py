"""The rings of one model: one for each worker, read by one mirror as if they were one ring.

Decides whose turn it is (each ring gets its share of a step, what one leaves goes to the others) and where the files lie:
`capture.dir/<model>/ring-<worker>.mmap`. A ring that was left by more workers than run now is read like the others until it is
empty; its counters stay in the sums, since the budget has counted on them. One thread; see ring.py for the bytes.
"""

import contextlib
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping

import structlog

from protos.errors import FormatError
from serving.shadow.ring import Ring, create

_NAME = re.compile(r"ring-(\d+)\.mmap")


def folder_of(capture_dir: pathlib.Path, model: str) -> pathlib.Path:
    """Return a model's part of the capture folder: its rings and spools."""
    return capture_dir / model


def path_of(folder: pathlib.Path, worker: int) -> pathlib.Path:
    """Return where a worker's ring lies in a model's folder."""
    return folder / f"ring-{worker}.mmap"


def prepare(folder: pathlib.Path, num_workers: int, ring_bytes: int, allowed: Callable[[int], float]) -> None:
    """Make a folder's rings, or keep those that are there, before anybody maps them.

    The first ring holds the count of rows asked of the teacher. Where it is damaged or gone, all that the rows seen elsewhere
    allow counts as spent: the cap is never forgotten, and only rows that are still to come are paid for.

    Args:
        allowed: the cap for a number of rows seen.

    Raises:
        UnavailableError: see ring.create.
    """
    first = path_of(folder, 0)
    with contextlib.closing(Rings.open(folder)) as left:
        fresh = not left.by_worker and not first.exists()
        lost = 0 if fresh else max(0, math.ceil(allowed(left.rows_seen)) - left.teacher_rows)
    create(first, ring_bytes, teacher_rows_if_lost=lost)
    for number in range(1, num_workers):
        create(path_of(folder, number), ring_bytes)


class Rings:
    """The consumer's end of several rings, with the surface of one.

    Args:
        rings: by the number of their worker.
    """

    def __init__(self, rings: Mapping[int, Ring]) -> None:
        self.by_worker = dict(sorted(rings.items()))
        self._turns = list(self.by_worker.items())

    @classmethod
    def open(cls, folder: pathlib.Path) -> "Rings":
        """Map every ring of a folder; a file that isn't one is passed over, and said."""
        found = {}
        for path in folder.glob("ring-*.mmap"):
            if match := _NAME.fullmatch(path.name):
                try:
                    found[int(match[1])] = Ring(path)
                except FormatError as error:
                    structlog.get_logger().error("a ring can't be read and is passed over", error=str(error))
        return cls(found)

    @property
    def pending_bytes(self) -> int:
        """Bytes written and not yet accepted."""
        return sum(ring.pending_bytes for ring in self.by_worker.values())

    @property
    def pending_frames(self) -> int:
        """Frames written and not yet accepted, lost ones included."""
        return sum(ring.pending_frames for ring in self.by_worker.values())

    @property
    def rows_seen(self) -> int:
        """Rows that all workers answered since their rings were made."""
        return sum(ring.rows_seen for ring in self.by_worker.values())

    @property
    def gaps(self) -> int:
        """Sequence numbers that never came out."""
        return sum(ring.gaps for ring in self.by_worker.values())

    @property
    def teacher_rows(self) -> int:
        """Rows asked of the teacher since the rings were made; the mirror's."""
        return sum(ring.teacher_rows for ring in self.by_worker.values())

    @teacher_rows.setter
    def teacher_rows(self, rows: int) -> None:
        """Keep the count: in the first ring, as far as a count can't be negative."""
        change = rows - self.teacher_rows
        for ring in self.by_worker.values():
            before = ring.teacher_rows
            ring.teacher_rows = max(0, before + change)
            change -= ring.teacher_rows - before
            if not change:
                return

    @property
    def have_moved(self) -> bool:
        """Whether something was read, or passed over unread, that isn't accepted."""
        return any(ring.has_moved for ring in self.by_worker.values())

    def read(self, max_frames: int, max_bytes: int = 2**62) -> list[tuple[int, list[bytes]]]:
        """Return the next payloads with the number of their worker, oldest of each ring first, without accepting them."""
        read: dict[int, list[bytes]] = {}
        for leaves in (True, False):  # each ring its share, then to each what others have left
            for place, (number, ring) in enumerate(self._turns):
                share = len(self._turns) - place if leaves else 1
                frames = ring.read(-(-max_frames // share), -(-max_bytes // share)) if max_frames > 0 else []
                read.setdefault(number, []).extend(payload for _, payload in frames)
                max_frames -= len(frames)
                max_bytes -= sum(len(payload) for _, payload in frames)
        self._turns.append(self._turns.pop(0))  # another begins the next step
        return list(read.items())

    def advance(self) -> None:
        """Accept all that `read` returned: its room is free, and it is never returned again."""
        for ring in self.by_worker.values():
            ring.advance()

    def close(self) -> None:
        """Unmap the files."""
        for ring in self.by_worker.values():
            ring.close()

    def __iter__(self) -> Iterator[tuple[int, Ring]]:
        """Return each worker's number and ring."""
        return iter(self.by_worker.items())
