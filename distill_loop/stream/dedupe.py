"""Dedupe: each record is counted once, however often the stream brings it. Remembers what became of the newest records."""

import collections
from typing import Any, Literal

from protos.records import ID_BYTES

Fate = Literal["learned", "held_out", "dead", "refused"]
#: A fate's place is its number in a checkpoint.
FATES: tuple[Fate, ...] = ("learned", "held_out", "dead", "refused")


class Dedupe:
    """A bounded window of record ids. One thread; part of the checkpoint.

    Args:
        max_records: newest ids that are remembered; a repeat that comes later than that is not recognised.
    """

    def __init__(self, max_records: int) -> None:
        self._max_records = max_records
        self._fates: collections.OrderedDict[bytes, int] = collections.OrderedDict()

    def __contains__(self, record_id: bytes) -> bool:
        return record_id in self._fates

    def __len__(self) -> int:
        return len(self._fates)

    def note(self, record_id: bytes, fate: Fate) -> None:
        """Remember what became of a record."""
        self._fates[record_id] = FATES.index(fate)
        self._fates.move_to_end(record_id)  # one that was dead and is replayed is new again
        if len(self._fates) > self._max_records:
            self._fates.popitem(last=False)

    def fate(self, record_id: bytes) -> Fate | None:
        """Return what became of a record, None where it isn't known."""
        number = self._fates.get(record_id)
        return None if number is None else FATES[number]

    def records(self, fate: Fate) -> set[bytes]:
        """Return the remembered records of one fate."""
        number = FATES.index(fate)
        return {record_id for record_id, one in self._fates.items() if one == number}

    def state_dict(self) -> dict[str, Any]:
        """Return the window as two byte strings."""
        return {
            "ids": b"".join(self._fates),
            "fates": bytes(self._fates.values()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        ids = state["ids"]
        self._fates = collections.OrderedDict(
            (ids[place * ID_BYTES : (place + 1) * ID_BYTES], number) for place, number in enumerate(state["fates"])
        )
