"""What a flood of poison costs the loop, beside good pairs in the same run: a part of `benchmarks.stream`.

"A flood of poison slows nothing" means two things to who runs a loop. Both are measured on either stream, with the whole loop: it reads, judges, learns, saves, and makes its letters safe.

- **A poisoned record costs at most one and a half times what a good one costs in its place**, letter included. A topic in which as many records are poison as are good is read in a backlog at .8 of the rate of the same messages with
  good pairs in the places of the poisoned ones, or faster: `ratio` is the median over rounds of the two rates, in records a second, of one round. The clock stops when the letters are safe. That is the strictest way to look at it:
  in a backlog the loop skips most steps that good pairs have earned, and where it takes them a good pair costs ten times as much or more. Half of the poison lies in messages of one record, which cost more
  to read, good or not, than the large batches that a mirror writes; `ratio_to_batches`, shown and not judged, is of the flood's rate to that of good pairs in such batches.
- **Pairs that arrive beside a flood don't wait long.** 200 good pairs a second arrive, and then the same beside 5,000 messages a second of which each is poison: the 99th percentile of the time from
  sending a pair to its being taken in stays within 2 s, while the sender manages at least .95 of both: one that is starved would make the delay look good. It is a rate that the loop carries on two cores that broker and sender share: beyond what it carries there is no bound, as with good pairs.
"""

import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import kafka

from benchmarks import harness
from benchmarks.capture import spread
from benchmarks.harness import Check
from benchmarks.pairs import MODEL, settings_with
from benchmarks.poison import MAX_MESSAGE_BYTES, Maker
from benchmarks.processes import create_topics, write_settings
from benchmarks.stream_ends import EndProcess
from distill_loop.config import LoopSettings
from distill_loop.stream.streams import open_writer
from distill_loop.stream.writer import Outgoing
from protos.topics import topic
from registry.config import load

PARTITIONS = 4
GOOD_PER_S, POISON_PER_S, TICK_S = 200, 5_000, 0.02
MIN_RATIO, MAX_DELAY_MS, MIN_SENT = 0.8, 2000.0, 0.95
#: The loop as it is by default, but for what would end the measurement: cuts, and a memory whose checkpoints would be most of it.
SETTINGS: dict[str, dict[str, Any]] = {
    "stream": {"partitions": PARTITIONS},
    "release": {"cut_every_pairs": 10**9},
    "learner": {"memory_bytes": 16 * 2**20},
}


class Sender(Protocol):
    """Writes messages to a stream, as somebody who isn't the mirror."""

    def write(self, messages: list[Outgoing]) -> None: ...


class KafkaSender:
    """Writes to Kafka without waiting for each."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self._prefix = prefix
        self._producer = kafka.KafkaProducer(
            bootstrap_servers=bootstrap,
            linger_ms=5,
            batch_size=256 * 2**10,
            compression_type="lz4",
            max_request_size=2**20,
        )

    def write(self, messages: list[Outgoing]) -> None:
        """Send messages."""
        for message in messages:
            headers = [(name, text.encode()) for name, text in message.headers.items()]
            name = topic(MODEL, message.kind, self._prefix)
            self._producer.send(name, message.value, headers=headers, partition=message.partition)

    def flush(self) -> None:
        """Wait until all have arrived."""
        self._producer.flush()

    def close(self) -> None:
        """Let go of the brokers."""
        self._producer.close()


class Way:
    """A loop on one stream, and who writes to it."""

    def __init__(self, folder: pathlib.Path, bootstrap: str, seed: int) -> None:
        folder.mkdir()
        config, prefix = folder / "everstill.toml", folder.name
        stream: dict[str, dict[str, Any]] = {}
        if bootstrap:
            told = {"bootstrap": bootstrap, "topic_prefix": prefix, "max_message_bytes": MAX_MESSAGE_BYTES}
            stream["stream.kafka"] = told
        write_settings(config, settings_with({**SETTINGS, **stream}))
        if bootstrap:
            create_topics(config)
        self.maker = Maker(PARTITIONS, seed)
        self.end = EndProcess("whole", folder)
        self._kafka = KafkaSender(bootstrap, prefix) if bootstrap else None
        self.sender: Sender = self._kafka or open_writer(load(config, LoopSettings).stream, MODEL)

    def time(self, messages: Iterable[Outgoing], num_good: int, num_poison: int) -> dict[str, float]:
        """Write messages, then let the loop read them; returns the seconds that it took and those of its processor."""
        self.sender.write(list(messages))
        if self._kafka:
            self._kafka.flush()
        self.end.go(num_good + num_poison)
        told = self.end.done()
        assert told["dead"] == num_poison
        return {"s": told["end_s"] - told["start_s"], "cpu_s": told["cpu_s"]}

    def round(self, num_pairs: int, number: int) -> dict[str, float]:
        """Time good pairs in batches, a flood, and the flood's messages with good pairs alone, in an order that rotates; returns figures by name."""
        contents: dict[str, tuple[Callable[[], Iterable[Outgoing]], int, int]] = {
            "batches": (lambda: self.maker.good(num_pairs), num_pairs, 0),
            "good": (lambda: self.maker.flood(num_pairs, spoilt=False), 2 * num_pairs, 0),
            "flood": (lambda: self.maker.flood(num_pairs), num_pairs, num_pairs),
        }
        names = list(contents)
        figures: dict[str, float] = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            make, num_good, num_poison = contents[name]
            told = self.time(make(), num_good, num_poison)
            figures[f"{name}_records_per_s"] = (num_good + num_poison) / told["s"]
            figures[f"{name}_cpu_us_per_record"] = told["cpu_s"] / (num_good + num_poison) * 1e6
        figures["ratio"] = figures["flood_records_per_s"] / figures["good_records_per_s"]
        figures["ratio_to_batches"] = figures["flood_records_per_s"] / figures["batches_records_per_s"]
        return dict(sorted(figures.items()))

    def delays(self, seconds: float, poison_per_s: int) -> dict[str, float]:
        """Send good pairs at a steady pace, with or without a flood beside them; returns how long they waited."""
        num_ticks = round(seconds / TICK_S)
        num_good, num_poison = round(GOOD_PER_S * TICK_S), round(poison_per_s * TICK_S)
        self.end.go(num_ticks * (num_good + num_poison))
        start = time.monotonic()
        for tick in range(num_ticks):
            time.sleep(max(0.0, start + tick * TICK_S - time.monotonic()))
            self.sender.write([*self.maker.wholes(num_poison), *self.maker.good(num_good)])
        sent_s = time.monotonic() - start
        told = self.end.done()
        return {
            "sent_per_s": num_ticks * (num_good + num_poison) / sent_s,
            **{f"delay_{name}_ms": told[f"delay_{name}_s"] * 1e3 for name in ("p50", "p99")},
        }

    def close(self) -> None:
        """Let go of the stream."""
        if self._kafka:
            self._kafka.close()


def measure(
    folder: pathlib.Path, bootstrap: str, seed: int, rounds: tuple[int, int], paced_s: float
) -> tuple[dict[str, Any], list[Check]]:
    """Return figures of both streams, and what is judged of them.

    Args:
        rounds: how many, and the pairs of each.
        paced_s: seconds for which pairs arrive at a steady pace, without a flood and beside one.
    """
    num_rounds, num_pairs = rounds
    figures: dict[str, Any] = {"flood_rounds": num_rounds, "flood_pairs_per_round": num_pairs}
    checks = []
    for name, brokers in (("embedded", ""), ("kafka", bootstrap)):
        way = Way(folder / f"flood-{name}", brokers, seed)
        with way.end:
            way.round(num_pairs // 4, 0)  # warm up
            timed = [way.round(num_pairs, number) for number in range(num_rounds)]
            calm, flooded = (way.delays(paced_s, poison_per_s) for poison_per_s in (0, POISON_PER_S))
        way.close()
        shown = judged(f"flood_{name}", timed, calm, flooded)
        figures.update(shown[0])
        checks += shown[1]
        harness.say(f"flood, {name}: {timed[-1]}, beside {flooded['sent_per_s']:.0f} a second {flooded}, else {calm}")
    return figures, checks


def judged(
    name: str, rounds: list[dict[str, float]], calm: dict[str, float], flooded: dict[str, float]
) -> tuple[dict[str, Any], list[Check]]:
    """Return one stream's figures, and what is judged of them."""
    figures: dict[str, Any] = {f"{name}_{key}": spread([one[key] for one in rounds]) for key in rounds[0]}
    for what, paced in (("calm", calm), ("beside", flooded)):
        figures.update({f"{name}_{what}_{key}": round(value, 1) for key, value in paced.items()})
    return figures, [
        Check(f"{name}_ratio", figures[f"{name}_ratio"]["median"], ">=", MIN_RATIO),
        Check(f"{name}_delay_p99_ms", figures[f"{name}_beside_delay_p99_ms"], "<=", MAX_DELAY_MS),
        Check(f"{name}_sent_part", flooded["sent_per_s"] / (GOOD_PER_S + POISON_PER_S), ">=", MIN_SENT),
    ]
