"""Kafka as the stream, its reading side: partitions assigned by hand, no group, offsets from the loop's checkpoint.

Decides how much is read ahead (bounded in messages and bytes: while there is enough, no broker is asked, docs/decisions/0009), and
what an offset means that the broker doesn't have. Below its log, retention took messages: a gap. Above it, or where the topic bears another
identity than the one that positions are of, it is another stream: it is read from its start, once what was read ahead of the old one is dealt with. Below our position ends the same one
where brokers lost its end: it may have grown since, so it is read on from what they took about when we last read, and that is known for repeats. A jump inside the log (a transaction's marker) is no gap: no message was there. A batch that can't be read
(damaged, or in a codec that isn't here) becomes one message that says so, and is passed over: only silence means that a broker is away.

The broker is away when it answers neither with messages nor to a question about its offsets: then the client is put away and made
anew in a thread of its own, and every call raises at once. So it is where a partition has messages and brings none. One thread.
"""

import time
from collections.abc import Mapping
from typing import Any, Literal

import kafka
import kafka.errors

from distill_loop.stream.consumer import Gap, Message, Position, Replaced, first_new_unix_ns
from distill_loop.stream.kafka_batches import Damaged, Unreadable
from distill_loop.stream.kafka_client import (
    LOST,
    check_topics,
    connect,
    fetch_position,
    first_since,
    identity_of,
    look_again,
    message_of,
    put_away,
)
from distill_loop.stream.kafka_damage import measure
from distill_loop.stream.kafka_stalls import Stalls
from distill_loop.stream.kafka_trouble import stalled, trouble
from distill_loop.stream.read_ahead import ReadAhead
from protos.errors import ConfigurationError, EverstillError, UnavailableError
from protos.topics import PAIRS, topic
from registry.connecting import Connection
from registry.kafka_options import CONNECT_TIMEOUT_S, Unreachable, away
from registry.sections import StreamSection

#: Bytes that are read ahead, in all partitions together, and one answer of each broker more.
MAX_WAITING_BYTES = 32 * 2**20
#: Messages that are read ahead.
MAX_WAITING = 4096
#: Longest wait for messages that the broker is known to have.
FETCH_WAIT_S = 0.1
#: A broker that brought nothing for so long is asked for its offsets, and has so long to answer.
QUIET_S = 1.0
ANSWER_S = 2.0


class KafkaConsumer:
    """Reads some topics of one model. It connects at its first use.

    Args:
        partitions: number of partitions by kind.
    """

    def __init__(self, settings: StreamSection, model: str, partitions: dict[str, int]) -> None:
        self._settings = settings.kafka
        self._model = model
        self._client_id = f"everstill-loop-{model}"
        self._names = {kind: topic(model, kind, settings.prefix) for kind in partitions}
        self._partitions = {self._names[kind]: count for kind, count in partitions.items()}
        self._places: dict[Position, kafka.TopicPartition] = {
            (kind, partition): kafka.TopicPartition(self._names[kind], partition)
            for kind, count in partitions.items()
            for partition in range(count)
        }
        self._of_place = {place: position for position, place in self._places.items()}
        self._ahead = ReadAhead(self._places, MAX_WAITING, MAX_WAITING_BYTES)
        #: Identity of the topic that the positions of a kind are of.
        self._streams: dict[str, str] = dict.fromkeys(self._names, "")
        #: Positions that nobody said what they are of, until something was read there.
        self._unsure: set[Position] = set()
        self._replaced: list[Replaced] = []
        self._stalls: Stalls[kafka.TopicPartition] = Stalls()
        self._connection = Connection(self._connect, put_away, name=f"kafka-consumer-{model}")
        self._client: Any = None
        self._answered_at = 0.0
        self._connect_wait_s = CONNECT_TIMEOUT_S + 2.0
        self._was_connected = False

    @property
    def num_bytes_waiting(self) -> int:
        """Bytes that were read ahead."""
        return self._ahead.num_bytes

    def positions(self) -> dict[Position, int]:
        """Return the next offset of each partition."""
        return dict(self._ahead.positions)

    def streams(self) -> dict[str, str]:
        """Return the identity of the topic that positions of each kind are of; empty before it was read, and from brokers before 2.8."""
        return dict(self._streams)

    def times(self) -> dict[Position, int]:
        """Return when brokers took the message before each position, as far as that is known."""
        return dict(self._ahead.times)

    def seek(
        self,
        positions: dict[Position, int],
        streams: Mapping[str, str] | None = None,
        times: Mapping[Position, int] | None = None,
    ) -> None:
        """Read on from these offsets, if the topics are those that they are of; partitions that are not named stay where they are, at 0 in the beginning."""
        self._streams = {kind: (streams or {}).get(kind, "") for kind in self._names}
        for position, offset in positions.items():
            if position not in self._places:
                continue
            self._ahead.go_to(position, offset)
            self._ahead.times[position] = (times or {}).get(position, 0)
            self._unsure -= {position}
            self._unsure |= set() if self._streams[position[0]] else {position}
            if self._client is not None:
                self._client.seek(self._places[position], offset)

    def poll(self, max_messages: int) -> list[Message]:
        """Return the next messages, at most `max_messages` of each partition; `advance` moves past one of them.

        Waits a moment where the broker is known to have some that haven't come yet.

        Raises:
            UnavailableError: no broker answers, or a topic is missing.
        """
        self._read(max_messages)
        return self._ahead.first(max_messages)

    def advance(self, message: Message) -> None:
        """Move past a message that was dealt with."""
        self._ahead.advance(message)
        self._unsure.discard((message.kind, message.partition))

    def take_gaps(self) -> list[Gap]:
        """Return the gaps that were found since the last call, oldest first."""
        return self._ahead.take_gaps()

    def take_replaced(self) -> list[Replaced]:
        """Return the partitions that were found to be of another topic, or to end before our position, since the last call."""
        replaced, self._replaced = self._replaced, []
        return replaced

    def lag(self) -> int:
        """Return how many messages wait to be read; raises as `poll`."""
        ends = self._ask("end_offsets")
        return sum(max(0, ends[self._places[position]] - offset) for position, offset in self._ahead.positions.items())

    def oldest_waiting_unix_ns(self) -> int | None:
        """Return when the stream took the oldest message of pairs that wasn't advanced past, None where none waits; raises as `poll`."""
        self._read(1)
        return min((message.time_unix_ns for message in self._ahead.first(1) if message.kind == PAIRS), default=None)

    def close(self) -> None:
        """Let go of the brokers."""
        self._client = None
        self._connection.close()

    def _read(self, max_messages: int) -> None:
        """Read ahead, until each partition has its messages or the broker has no more, or until what was read comes first."""
        client = self._reach()
        end = time.monotonic() + FETCH_WAIT_S
        while self._follow(client) and (room := self._ahead.room(max_messages)):
            wait_s = 0.0
            if not self._ahead.any_waits() and self._behind(client):
                wait_s = max(0.0, end - time.monotonic())
            try:
                found = client.poll(timeout_ms=int(wait_s * 1000), max_records=room)
            except kafka.errors.OffsetOutOfRangeError as error:
                if time.monotonic() > end + ANSWER_S:  # what it says of its offsets and what it does don't agree
                    raise self._lost(error) from None
                if not self._find_again(client):
                    break
                continue
            except Unreadable as unreadable:
                self._pass_over(client, unreadable)
                continue
            except Damaged as damaged:
                self._pass_over(client, self._measure(damaged))
                continue
            except kafka.errors.LogTruncationError as error:
                if not self._go_back(client, error):
                    break
                continue
            except LOST as error:
                raise self._lost(error) from None
            if not found:
                self._stalls.note_empty_poll()
                break
            for place, records in found.items():
                self._take(self._of_place[place], records)
        if time.monotonic() - self._answered_at > QUIET_S and not self._ahead.any_waits():
            self._ask("end_offsets")

    def _behind(self, client: Any) -> bool:
        """Return whether a partition may have messages that weren't read ahead."""
        for position, place in self._places.items():
            end = client.highwater(place)
            if end is None or end > self._ahead.next(position):
                return True
        return False

    def _take(self, position: Position, records: list[Any]) -> None:
        self._answered_at = time.monotonic()
        self._ahead.put(position, [message_of(position, record) for record in records])

    def _pass_over(self, client: Any, unreadable: Unreadable) -> None:
        """Let a message stand for a batch that can't be read, and read on behind it."""
        position = self._of_place[unreadable.place]
        first = max(unreadable.first, self._ahead.next(position))
        end = max(unreadable.end, first + 1)
        if highwater := client.highwater(unreadable.place):  # a damaged batch may say anything
            end = min(end, max(highwater, first + 1))
        why = f"offsets {first} to {end - 1} can't be read: {unreadable.reason}"
        time_ns = max(0, unreadable.time_unix_ms) * 1_000_000
        self._ahead.put(position, [Message(*position, first, {}, b"", time_ns, end - first, why)])
        client.seek(unreadable.place, end)
        self._answered_at = time.monotonic()

    def _measure(self, damaged: Damaged) -> Unreadable:
        """Return what a broker can't read of its own log; raises UnavailableError where it is another one that can, or none says it."""
        try:
            end = self._ask("end_offsets")[damaged.place]
            unreadable = measure(self._settings, self._client_id, damaged, end)
        except LOST as error:
            raise self._lost(error) from None
        except ConfigurationError as error:  # of the client that it makes
            raise away(error) from None
        if unreadable is None:
            raise self._lost(damaged)
        return unreadable

    def _follow(self, client: Any) -> bool:
        """Go to the start of each topic that is another one than our positions are of; False while messages of the old one wait, which come first."""
        for kind, name in self._names.items():
            before, found = self._streams[kind], identity_of(client, name)
            if not found or found == before:
                continue
            if before:
                mine = [position for position in self._places if position[0] == kind]
                if any(self._ahead.waiting(position) for position in mine):
                    return False
                for position in mine:
                    self._start_over(client, position, before, found)
            self._streams[kind] = found
        return True

    def _start_over(self, client: Any, position: Position, stream: str, successor: str) -> None:
        if offset := self._ahead.positions[position]:
            self._note(Replaced(*position, offset, stream, successor))
        self._ahead.times.pop(position, None)
        self._unsure.discard(position)
        self._ahead.go_to(position, 0)
        client.seek(self._places[position], 0)

    def _note(self, replaced: Replaced) -> None:
        replaced.log()
        self._replaced.append(replaced)

    def _go_back(self, client: Any, error: Any) -> bool:
        """Go back to where logs were cut off, as by the election of a leader that hadn't all of them: others have these offsets now. Returns as `_find_again`."""
        if None in error.divergent_offsets.values():
            raise self._lost(error)
        if not self._follow_anew(client):
            return False
        for place, divergent in error.divergent_offsets.items():
            position, first = self._of_place[place], divergent.offset
            if first < self._ahead.next(position):
                self._read_on(client, position, first, first)
        return True

    def _read_on(self, client: Any, position: Position, end: int, first: int) -> None:
        """Read a log that was cut off at `end` from `first` on, or from our position where that comes before."""
        offset, stream = self._ahead.positions[position], self._streams[position[0]]
        if offset > end:
            self._note(Replaced(*position, offset, stream, stream, end, first))
        self._ahead.go_to(position, min(offset, first))
        client.seek(self._places[position], self._ahead.positions[position])

    def _follow_anew(self, client: Any) -> bool:
        """Follow topics by what brokers say now."""
        try:
            look_again(client, ANSWER_S)
        except LOST as error:
            raise self._lost(error) from None
        return self._follow(client)

    def _find_again(self, client: Any) -> bool:
        """Go to where each log is read on that doesn't reach back, or up, to our position; False while messages wait that come first."""
        if not self._follow_anew(client):
            return False
        begins, ends = self._ask("beginning_offsets"), self._ask("end_offsets")
        for position, place in self._places.items():
            begin, end, offset = begins[place], ends[place], self._ahead.next(position)
            if offset > end:
                if self._ahead.waiting(position):
                    return False
                if (stream := self._streams[position[0]]) and position not in self._unsure:
                    self._read_on(client, position, end, max(begin, self._first_new(client, position, end)))
                    continue
                self._start_over(client, position, "", stream)
                offset = 0
            if offset < begin:
                client.seek(place, begin)
                self._ahead.put_gap(Gap(*position, offset, begin, self._streams[position[0]]))
        return True

    def _first_new(self, client: Any, position: Position, end: int) -> int:
        """Return an offset before which there is nothing, in a log that was cut off below our position at an unknown place, that wasn't read."""
        if not (since := first_new_unix_ns(self._ahead.times.get(position, 0))):
            return 0
        try:
            first = first_since(client, self._places[position], since, ANSWER_S)
        except LOST as error:
            raise self._lost(error) from None
        return end if first is None else min(first, end)

    def _reach(self) -> Any:
        """Return the client, at the offsets that are read next.

        Raises:
            UnavailableError: there is none yet.
        """
        client = self._connection.get(self._connect_wait_s)
        self._connect_wait_s = 0.0
        if client is None:
            error = self._connection.error or Unreachable(f"Kafka at {self._settings.bootstrap} is away")
            raise away(error) if self._was_connected else error
        if client is not self._client:
            client.assign(list(self._of_place))
            for position, place in self._places.items():
                client.seek(place, self._ahead.next(position))
            self._client, self._answered_at, self._was_connected = client, time.monotonic(), True
            self._stalls.begin()
        return client

    def _ask(self, what: Literal["beginning_offsets", "end_offsets"]) -> dict[kafka.TopicPartition, int]:
        client = self._reach()
        try:
            offsets: dict[kafka.TopicPartition, int] = getattr(client, what)(
                list(self._of_place), timeout_ms=int(ANSWER_S * 1000)
            )
        except LOST as error:
            raise self._lost(error) from None
        self._answered_at = time.monotonic()
        if what == "end_offsets":
            self._look_for_stalls(client, offsets)
        return offsets

    def _look_for_stalls(self, client: Any, ends: dict[kafka.TopicPartition, int]) -> None:
        """Raise UnavailableError where a partition has messages that this client doesn't bring."""
        positions = {place: fetch_position(client, place) for place in self._of_place}
        for place, silent_s in self._stalls.look(positions, ends).items():
            self._give_up()
            raise stalled(self._settings, place, ends[place], positions[place], silent_s)

    def _lost(self, error: BaseException) -> UnavailableError:
        if not isinstance(error, kafka.errors.TopicAuthorizationFailedError):  # this one serves once it is granted
            self._give_up()
        return trouble(self._settings, error)

    def _give_up(self) -> None:
        self._client = None
        self._connection.give_up()

    def _connect(self) -> Any:
        client = connect(self._settings, self._client_id)
        try:
            check_topics(client, self._settings, self._partitions)
        except LOST as error:
            put_away(client)
            raise trouble(self._settings, error) from None
        except EverstillError:
            put_away(client)
            raise
        return client
