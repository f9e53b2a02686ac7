"""A client of kafka-python that needs no broker: topics are lists, and a test says what goes wrong."""

import threading
import uuid
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import kafka
import kafka.errors

from distill_loop.stream.kafka_batches import Damaged


class FakeBroker:
    """Topics of one partition each, by name: identity and values. `deaf`: names of which clients bring nothing; `damaged`: offsets that can't be read;
    `forbidden`: names that we may look at, and not read; `begins`: first offsets, 0 where none is said; `times_ms`: when the first messages were taken, 1 where none is said."""

    def __init__(self, *names: str) -> None:
        self.values: dict[str, list[bytes]] = {name: [] for name in names}
        self.identities = {name: uuid.uuid4() for name in names}
        self.deaf: set[str] = set()
        self.damaged: set[int] = set()
        self.leaderless: set[str] = set()
        self.forbidden: set[str] = set()
        self.begins: dict[str, int] = {}
        self.times_ms: dict[str, list[int]] = {}
        self.num_clients = 0

    def make_anew(self, name: str, values: list[bytes]) -> None:
        """Delete a topic and make one of the same name."""
        self.identities[name], self.values[name] = uuid.uuid4(), values

    def time_ms(self, name: str, offset: int) -> int:
        """Return when a message was taken."""
        return self.times_ms[name][offset] if name in self.times_ms else 1

    def connect(self, *_: object) -> "FakeClient":
        """Return a client."""
        self.num_clients += 1
        return FakeClient(self)


class FakeClient:
    """What `kafka_consumer` asks of a client."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._positions: dict[kafka.TopicPartition, int] = {}
        self._lock = threading.Lock()
        self._identities = dict(broker.identities)
        self._cluster = SimpleNamespace(topic_id=lambda name: self._identities.get(name), request_update=self._learn)
        self._manager = SimpleNamespace(wait_for=lambda *_: None)
        self._net = SimpleNamespace(run=lambda call, *arguments: call(*arguments))
        self._subscription = SimpleNamespace(position=lambda place: SimpleNamespace(offset=self._positions[place]))

    def topics(self) -> set[str]:
        """Return their names."""
        return set(self._broker.values)

    def partitions_for_topic(self, name: str) -> set[int]:
        """Return one for each."""
        return {0}

    def assign(self, places: Sequence[kafka.TopicPartition]) -> None:
        """Read these from their start."""
        self._positions = dict.fromkeys(places, 0)

    def seek(self, place: kafka.TopicPartition, offset: int) -> None:
        """Read on from there."""
        self._positions[place] = offset

    def highwater(self, place: kafka.TopicPartition) -> int:
        """Return the end of the log."""
        return len(self._broker.values[place.topic])

    def poll(self, timeout_ms: int = 0, max_records: int = 1) -> dict[kafka.TopicPartition, list[Any]]:
        """Return two messages of each topic at most, so that there are always more."""
        found = {}
        for place, offset in self._positions.items():
            values = self._broker.values[place.topic]
            if place.topic in self._broker.forbidden:
                raise kafka.errors.TopicAuthorizationFailedError({place.topic})
            if not self._broker.begins.get(place.topic, 0) <= offset <= len(values):
                raise kafka.errors.OffsetOutOfRangeError({place: offset})
            if offset in self._broker.damaged:
                raise Damaged(place, offset, "CorruptRecordError")
            if place.topic in self._broker.deaf or offset == len(values):
                continue
            taken = values[offset : offset + min(2, max_records)]
            found[place] = [
                SimpleNamespace(
                    value=value, headers=[], timestamp=self._broker.time_ms(place.topic, number), offset=number
                )
                for number, value in enumerate(taken, offset)
            ]
            self._positions[place] = offset + len(taken)
        return found

    def beginning_offsets(self, places: Sequence[kafka.TopicPartition], timeout_ms: int) -> dict[Any, int]:
        """Return where the logs begin."""
        return {place: self._broker.begins.get(place.topic, 0) for place in places}

    def offsets_for_times(self, times_ms: dict[kafka.TopicPartition, int], timeout_ms: int) -> dict[Any, Any]:
        """Return the first messages that were taken since."""
        return {place: self._first_since(place.topic, time_ms) for place, time_ms in times_ms.items()}

    def _first_since(self, name: str, time_ms: int) -> SimpleNamespace | None:
        offsets = range(self._broker.begins.get(name, 0), len(self._broker.values[name]))
        found = (offset for offset in offsets if self._broker.time_ms(name, offset) >= time_ms)
        return next((SimpleNamespace(offset=offset) for offset in found), None)

    def end_offsets(self, places: Sequence[kafka.TopicPartition], timeout_ms: int) -> dict[Any, int]:
        """Return where they end; as kafka-python does, with a KeyError where nobody leads."""
        ends = {place: self.highwater(place) for place in places if place.topic not in self._broker.leaderless}
        return {place: ends[place] for place in places}

    def close(self, **_: object) -> None:
        """Nothing is open."""

    def _learn(self) -> Callable[..., None]:
        self._identities = dict(self._broker.identities)
        return lambda: None
