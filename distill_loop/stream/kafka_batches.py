"""Batches that kafka-python can't read: damaged, in a codec that isn't installed, or with a header's name that is no UTF-8; and places of a log that
brokers can't read themselves.

Decides nothing of what becomes of them: `Unreadable` and `Damaged` only say which partition and offsets it is about, which kafka-python's own errors don't. Called by
`kafka_consumer`, in its thread.
"""

from collections.abc import Iterator
from typing import Any

import kafka
import kafka.errors
from kafka.consumer.fetcher import Fetcher


class Unreadable(kafka.errors.KafkaError):  # type: ignore[misc]
    """A batch can't be read: the messages from `first` up to the one before `end` are lost to us."""

    def __init__(self, place: kafka.TopicPartition, first: int, end: int, time_unix_ms: int, reason: str) -> None:
        super().__init__(reason)
        self.place = place
        self.first = first
        self.end = end
        self.time_unix_ms = time_unix_ms
        self.reason = reason


class Damaged(kafka.errors.KafkaError):  # type: ignore[misc]
    """A log can't be read at `first`: its broker says so, or what it sends is no whole batch. How far that reaches nobody says."""

    def __init__(self, place: kafka.TopicPartition, first: int, reason: str) -> None:
        super().__init__(f"{place.topic}/{place.partition} can't be read at offset {first}: {reason}")
        self.place = place
        self.first = first
        self.reason = reason


def tell_unreadable(client: Any) -> None:
    """Make a consumer of kafka-python raise `Unreadable` where it can't read a batch, and `Damaged` where a broker can't."""
    fetcher = client._fetcher
    fetcher.PartitionRecords = _Records
    parse = fetcher._parse_fetched_data

    def told(fetched: Any) -> Any:
        try:
            return parse(fetched)
        except kafka.errors.KafkaError as error:
            # No subclass but these: what is out of range, or forbidden, is no damage.
            if type(error) not in (kafka.errors.KafkaError, kafka.errors.CorruptRecordError):
                raise
            if fetcher._subscriptions.position(fetched.topic_partition).offset != fetched.fetched_offset:
                return None  # an answer to a question that is no longer asked
            raise Damaged(
                fetched.topic_partition, fetched.fetched_offset, f"{type(error).__name__}: {error}"
            ) from error

    fetcher._parse_fetched_data = told


class _Records(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What one answer brought of one partition."""

    def _unpack_records(self, tp: kafka.TopicPartition, records: Any, *others: Any) -> Iterator[Any]:
        batches = _Batches(records)
        try:
            yield from super()._unpack_records(tp, batches, *others)
        except Exception as error:  # a supervision point: bytes of others meet codecs that raise what they like
            first = max(self.fetch_offset, self.next_fetch_offset)
            reason = f"{type(error).__name__}: {error}"
            raise Unreadable(tp, first, batches.end_of_last(), batches.time_unix_ms, reason) from error


class _Batches:
    """The batches of an answer, one after the other; knows the last one."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self._end = 0
        self.time_unix_ms = 0

    def next_batch(self) -> Any:
        """Return the next one, None where there is none."""
        batch = self._records.next_batch()
        if batch is not None:
            self._end, self.time_unix_ms = batch.next_offset, batch.max_timestamp
        return batch

    def end_of_last(self) -> int:
        """Return the offset after the last one. A damaged batch may say anything of that, so the next one's beginning is asked too."""
        try:
            following = self._records.next_batch()
        except kafka.errors.KafkaError:
            following = None
        return min(self._end, following.base_offset) if following is not None else self._end
