"""The table of strata in a ring's header: what a worker counts of each kind of traffic, beside the frames.

Decides where each count lies and in which order counts and frames are told, so that a worker that is killed between the two leaves numbers that
can be set right: `counted_from` + the handed-over rows of all strata + labels = `next_sequence`, always but in the middle of an append. A row is
counted first and numbered then; a number that no frame follows is a gap. Words are written by the worker under the ring's lock, and read by
anybody.
"""

import dataclasses

from protos.records import ARM_PASS_THROUGH, ARM_TRIAL, ARM_UNIFORM

#: Strata of this release, by their place in the table; places are never given to another name.
SERVED, PASS_THROUGH = "served", "pass_through"
STRATA = (SERVED, PASS_THROUGH)
ARMS = (ARM_UNIFORM, ARM_TRIAL, ARM_PASS_THROUGH)
#: Bytes of the header at which the table begins, those of one row of it, and how many rows there are.
TABLE, ROW_BYTES, ROWS = 512, 128, 16
NAME_BYTES = 32
#: Words of a row, after the name.
_SEEN, _CONFIDENCE, _HANDED, _DROPPED, _FIRST_ARM = 4, 5, 6, 7, 8
_ARM_WORD = {arm: _FIRST_ARM + place for place, arm in enumerate(ARMS)}
_ROW = {name: (TABLE + place * ROW_BYTES) // 8 for place, name in enumerate(STRATA)}


@dataclasses.dataclass(frozen=True)
class StratumCounts:
    """What a worker has counted of one stratum. handed: rows put into the ring; dropped: rows that found it full."""

    seen: int
    confidence_sum: float
    handed: int
    dropped: int
    arms: dict[str, int]

    @property
    def sampled(self) -> int:
        """Rows that at least one arm took."""
        return self.handed + self.dropped


class Table:
    """The table in a mapped header.

    Args:
        header: the header's bytes, at least up to the table's end; a view that is written through.
    """

    def __init__(self, header: memoryview) -> None:
        self._bytes = header
        self._words = header.cast("Q")
        self._numbers = header.cast("d")

    def name_rows(self) -> None:
        """Write the names of the strata where a version before left none."""
        for name, row in _ROW.items():
            if not self._words[row]:
                raw = name.encode()
                self._bytes[row * 8 : row * 8 + len(raw)] = raw

    def count_seen(self, stratum: str, rows: int, confidence_sum: float) -> None:
        """Count answered rows."""
        row = _ROW[stratum]
        self._words[row + _SEEN] += rows
        if confidence_sum:
            self._numbers[row + _CONFIDENCE] += confidence_sum

    def count_handed(self, stratum: str, arms: tuple[str, ...]) -> None:
        """Count a row that gets the next number."""
        self._words[_ROW[stratum] + _HANDED] += 1
        self._count_arms(stratum, arms)

    def count_dropped(self, stratum: str, arms: tuple[str, ...]) -> None:
        """Count a row that finds no room."""
        self._words[_ROW[stratum] + _DROPPED] += 1
        self._count_arms(stratum, arms)

    def num_handed(self) -> int:
        """Return the rows of all strata that were handed over."""
        return sum(self._words[(TABLE + place * ROW_BYTES) // 8 + _HANDED] for place in range(ROWS))

    def read(self) -> dict[str, StratumCounts]:
        """Return the counts of every stratum that has a name."""
        found = {}
        for place in range(ROWS):
            start = TABLE + place * ROW_BYTES
            name = bytes(self._bytes[start : start + NAME_BYTES]).rstrip(b"\0").decode(errors="replace")
            if name:
                row = start // 8
                found[name] = StratumCounts(
                    seen=self._words[row + _SEEN],
                    confidence_sum=self._numbers[row + _CONFIDENCE],
                    handed=self._words[row + _HANDED],
                    dropped=self._words[row + _DROPPED],
                    arms={arm: self._words[row + word] for arm, word in _ARM_WORD.items()},
                )
        return found

    def release(self) -> None:
        """Let go of the header."""
        self._numbers.release()
        self._words.release()
        self._bytes.release()

    def _count_arms(self, stratum: str, arms: tuple[str, ...]) -> None:
        row = _ROW[stratum]
        for arm in arms:
            if arm in _ARM_WORD:
                self._words[row + _ARM_WORD[arm]] += 1
