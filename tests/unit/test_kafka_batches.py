"""A damaged batch of Kafka: which offsets it stands for, whatever it says of itself."""

import struct
from types import SimpleNamespace

import kafka
import pytest
from kafka.errors import CorruptRecordError, KafkaError, OffsetOutOfRangeError
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from kafka.record.default_records import DefaultRecordBase

from distill_loop.stream.kafka_batches import Damaged, Unreadable, _Records, tell_unreadable

PLACE = kafka.TopicPartition("t", 0)
#: Where a batch says how many offsets it has after its first.
LAST_OFFSET_DELTA = DefaultRecordBase.CRC_OFFSET + 4 + 2


def batch(first: int, count: int) -> bytearray:
    builder = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=2**16)
    for number in range(count):
        builder.append(timestamp=5, key=None, value=b"%d" % (first + number), headers=[])
    builder.close()
    data = bytearray(builder.buffer())
    struct.pack_into(">q", data, 0, first)
    return data


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (CorruptRecordError("CORRUPT_MESSAGE"), Damaged),
        (KafkaError("Failed to make progress"), Damaged),
        (OffsetOutOfRangeError({PLACE: 7}), OffsetOutOfRangeError),
    ],
)
def test_what_a_broker_can_not_read_has_its_place(error: KafkaError, becomes: type[KafkaError]) -> None:
    def parse(_: object) -> None:
        raise error

    position = SimpleNamespace(offset=7)
    fetcher = SimpleNamespace(
        _parse_fetched_data=parse, _subscriptions=SimpleNamespace(position=lambda _: position), PartitionRecords=None
    )
    tell_unreadable(SimpleNamespace(_fetcher=fetcher))

    with pytest.raises(becomes) as caught:
        fetcher._parse_fetched_data(SimpleNamespace(topic_partition=PLACE, fetched_offset=7))
    if isinstance(caught.value, Damaged):
        assert (caught.value.place, caught.value.first) == (PLACE, 7)
        position.offset = 9  # somebody went elsewhere meanwhile
        assert fetcher._parse_fetched_data(SimpleNamespace(topic_partition=PLACE, fetched_offset=7)) is None


@pytest.mark.parametrize("says", [2, 10_000])
def test_a_damaged_batch_takes_none_of_its_neighbours_with_it(says: int) -> None:
    damaged = batch(3, 3)
    struct.pack_into(">i", damaged, LAST_OFFSET_DELTA, says)
    damaged[-2] ^= 0xFF  # its sum isn't right, in either case
    records = _Records(0, PLACE, MemoryRecords(bytes(batch(0, 3) + damaged + batch(6, 2))))

    assert [record.value for record in records.take(10)] == [b"0", b"1", b"2"]
    with pytest.raises(Unreadable, match="crc") as caught:
        records.take(10)

    assert (caught.value.place, caught.value.first, caught.value.end) == (PLACE, 3, 6)
