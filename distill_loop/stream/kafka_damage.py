"""How far a damage in a broker's own log reaches. Brokers say of an offset that they can't read it, and not where they can again.

Decides at which offsets is asked: ever further until one can be read, then halves, so that nothing is given up that isn't damaged and lies before the next damage. Asks with a
client of its own, since the loop's has other partitions to read. `kafka_consumer` calls it, in its thread, which waits some seconds for it.
"""

import time
from collections.abc import Callable
from typing import Any

import kafka
import kafka.errors
import structlog

from distill_loop.stream.kafka_batches import Damaged, Unreadable
from distill_loop.stream.kafka_client import connect, fetch_position, put_away
from registry.sections import KafkaSection

#: One answer may take so long.
ANSWER_S = 2.0
POLL_MS = 100


def measure(settings: KafkaSection, client_id: str, damaged: Damaged, end: int) -> Unreadable | None:
    """Return the offsets that can't be read, and log them; None where the first can, by a client that has just asked who leads the partition.

    Args:
        end: of the log; to read there is to wait for what comes.

    Raises:
        UnavailableError: no broker answers. kafka.errors.KafkaError: one doesn't say it in time.
    """
    client = connect(settings, f"{client_id}-damage")
    try:
        client.assign([damaged.place])
        if can_read(client, damaged.place, damaged.first):
            return None
        past = end_of_damage(lambda offset: can_read(client, damaged.place, offset), damaged.first, end)
    finally:
        put_away(client)
    structlog.get_logger().error(
        "brokers can't read a part of their own log",
        topic=damaged.place.topic,
        partition=damaged.place.partition,
        first=damaged.first,
        end=past,
        reason=damaged.reason,
        fix="Check the disk of the partition's leader; a replica may have the messages whole",
    )
    return Unreadable(damaged.place, damaged.first, past, 0, damaged.reason)


def end_of_damage(readable: Callable[[int], bool], first: int, end: int) -> int:
    """Return an offset behind the damage at `first` that can be read while the one before can't; `end` can always be."""
    low, step = first, 1
    while low + step < end and not readable(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, max(end, first + 1))
    while high - low > 1:
        middle = (low + high) // 2
        if readable(middle):
            high = middle
        else:
            low = middle
    return high


def can_read(client: Any, place: kafka.TopicPartition, offset: int) -> bool:
    """Return whether brokers can read at an offset, whatever is to be thought of what they send."""
    client.seek(place, offset)
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        try:
            if client.poll(timeout_ms=POLL_MS, max_records=1) or fetch_position(client, place) > offset:
                return True
        except Damaged as damaged:
            if damaged.first == offset:
                return False
        except (Unreadable, kafka.errors.OffsetOutOfRangeError):
            return True
    raise kafka.errors.KafkaTimeoutError(f"no answer at offset {offset} of {place.topic}/{place.partition}")
