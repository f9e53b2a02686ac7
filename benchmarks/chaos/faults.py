"""The faults, each a function that breaks one thing of a running rig and mends it again; what is judged afterwards is in cases.py.

Every wait for recovery is inside the fault's window: callers must not notice that either. Numbers of kills and seconds are arguments, so that the tests
play the same faults in short.
"""

import collections
import contextlib
import random
import time
from collections.abc import Callable

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from benchmarks.chaos.rig import Rig
from benchmarks.harness import say
from benchmarks.pairs import MODEL
from benchmarks.processes import wait_until
from protos.topics import LABELS, PAIRS, TRIALS, topic

#: Pairs that must reach the loop before a part counts as mended.
MENDED_PAIRS = 20
STEADY_BETWEEN_S = 6.0
#: A disk with less room takes no lot of messages any more.
FULL_BYTES = 2**17
DROPPED = "everstill_shadow_dropped_total"


def kill_loops(rig: Rig, *, num_kills: int, most_s: float = 6.0) -> None:
    """Kill the loop again and again at random moments: while it starts, restores, reads, saves."""
    _kill_again_and_again(rig, "loop", rig.kill_loop, num_kills, most_s, steady_every=5)


def kill_mirrors(rig: Rig, *, num_kills: int, most_s: float = 2.0) -> None:
    """Kill the mirror again and again, some moments after another one has begun."""
    _kill_again_and_again(rig, "mirror", rig.kill_mirror, num_kills, most_s, steady_every=4)


def _kill_again_and_again(
    rig: Rig, part: str, kill: Callable[[], None], num_kills: int, most_s: float, *, steady_every: int
) -> None:
    """Kill a part at moments that are at most so far apart; now and then let it mend, and be steady for a while."""
    rng = random.Random(rig.plan.seed)
    for number in range(1, num_kills + 1):
        mends = not number % steady_every
        with rig.window("fault"):
            kill()
            time.sleep(rng.uniform(0.0, most_s))
            if mends or number == num_kills:
                rig.wait_for_loop()
                rig.wait_for_pairs(MENDED_PAIRS)
        if mends:
            rig.steady(STEADY_BETWEEN_S)
            say(f"{part} killed {number} times")


def silence_broker(rig: Rig, *, seconds: float) -> None:
    """Let the broker fall silent for a while: its connections stay open, and nobody answers."""
    with rig.window("fault"):
        with rig.cluster.silent():
            time.sleep(seconds)
        rig.wait_for_pairs(MENDED_PAIRS)


def kill_broker(rig: Rig, *, dead_s: float) -> None:
    """Kill the broker and let it come back on its data."""
    with rig.window("fault"):
        rig.cluster.kill()
        time.sleep(dead_s)
        rig.cluster.start()
        rig.wait_for_pairs(MENDED_PAIRS)


def cut_network(rig: Rig, *, seconds: float) -> None:
    """Cut the mirror off from the broker: first without a word, then with resets."""
    assert rig.network is not None
    for weather in ("silence", "cut"):
        with rig.window("fault"):
            rig.network.become(weather)
            time.sleep(seconds)
            rig.network.become("heal")
            rig.wait_for_pairs(MENDED_PAIRS)


def inject_duplicates(rig: Rig, *, most_messages: int, seconds: float = 0.0) -> collections.Counter[str]:
    """Publish again what lies on the topics, as it is, while new pairs arrive, for so long or once; returns how many messages of each.

    Args:
        most_messages: of each topic, in one go.
    """
    num_sent: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + seconds
    with rig.window("fault"):
        while not num_sent.total() or time.monotonic() < end:
            for kind in (TRIALS, PAIRS, LABELS):
                num_sent[kind] += _inject(rig, topic(MODEL, kind), most_messages)
        rig.wait_for_pairs(MENDED_PAIRS)
    return num_sent


def _inject(rig: Rig, name: str, most_messages: int) -> int:
    consumer = KafkaConsumer(bootstrap_servers=rig.cluster.bootstrap, auto_offset_reset="earliest")
    producer = KafkaProducer(bootstrap_servers=rig.cluster.bootstrap, acks="all", linger_ms=5)
    num_sent = 0
    with contextlib.closing(consumer), contextlib.closing(producer):
        places = [TopicPartition(name, number) for number in consumer.partitions_for_topic(name) or ()]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        consumer.seek_to_beginning(*places)
        while num_sent < most_messages and any(consumer.position(place) < end for place, end in ends.items()):
            for place, found in consumer.poll(500).items():
                for message in found:
                    if message.offset < ends[place]:
                        producer.send(name, message.value, partition=place.partition, headers=list(message.headers))
                        num_sent += 1
        producer.flush()
    return num_sent


def fill_the_disk(rig: Rig, *, full_s: float) -> None:
    """Take the broker away until the disk below the spool is full and rings overflow, and bring it back.

    More callers make that quick; their time is in no window, since it is they who slow the others down.
    """
    before = rig.gateway.metric(DROPPED)
    rig.cluster.kill()
    with rig.burst():
        rig.gateway.wait(lambda: rig.free_bytes < FULL_BYTES, "a full disk", 300.0)
        rig.gateway.wait(lambda: rig.gateway.metric(DROPPED) > before, "rows to be dropped", 300.0)
    with rig.window("fault"):
        time.sleep(full_s)
        rig.cluster.start()
        rig.wait_for_pairs(MENDED_PAIRS)


def move_leader(rig: Rig) -> float:
    """Kill the broker that leads partition 0 of the pairs; returns the seconds until that partition took a pair again."""
    admin = KafkaAdminClient(bootstrap_servers=rig.cluster.bootstrap)
    (described,) = admin.describe_topics([topic(MODEL, PAIRS)])
    admin.close()
    leader = next(int(one["leader_id"]) for one in described["partitions"] if one["partition_index"] == 0)
    place = TopicPartition(topic(MODEL, PAIRS), 0)
    with rig.window("fault"):
        rig.cluster.kill(leader)
        killed_s = time.monotonic()
        alive = [one for number, one in enumerate(rig.cluster.bootstrap.split(","), 1) if number != leader]
        consumer = KafkaConsumer(bootstrap_servers=alive, metadata_max_age_ms=1000)
        with contextlib.closing(consumer):
            before = _end_of(consumer, place)
            wait_until(lambda: _end_of(consumer, place) > before, "the moved partition to take a pair", every_s=0.1)
        moved_s = time.monotonic() - killed_s
        rig.wait_for_pairs(MENDED_PAIRS)
    rig.steady(STEADY_BETWEEN_S)
    with rig.window("fault"):
        rig.cluster.start()
        rig.wait_for_pairs(MENDED_PAIRS)
    return moved_s


def _end_of(consumer: KafkaConsumer, place: TopicPartition) -> int:
    return int(consumer.end_offsets([place])[place])
