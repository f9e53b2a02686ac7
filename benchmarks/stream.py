"""What a pair costs between gateway and learner, beside bare kafka-python that sends each pair as a record of its own.

Each round moves the same number of pairs through one broker, first one way, then the other: from full rings through the real mirror
(its teacher an instant one), Kafka, and the loop's real consumer and intake, up to the learner; and from a bare producer to a bare
consumer, two processes each. A ratio is the median over rounds of the pair in one round. The bare producer has the guarantees that the mirror
asks for (acks=all, idempotent) and else kafka-python's defaults; one that waits and fills its batches is shown too, judged by nothing.
"""

import contextlib
import json
import pathlib
import tempfile
import time
from typing import Any

from kafka.admin import KafkaAdminClient, NewTopic

from benchmarks import harness
from benchmarks.capture import spread
from benchmarks.harness import Check, Options, Result
from benchmarks.pairs import MODEL, HandOver, settings_with
from benchmarks.processes import write_settings
from benchmarks.stream_ends import EndProcess
from protos.topics import KINDS, LABELS, PAIRS, topic
from registry.config import load
from serving.config import ServingSettings
from serving.shadow.ring import Ring
from serving.shadow.rings import folder_of, path_of, prepare
from tests.support.kafka import brokers

GOAL = 3.0
PARTITIONS = 4
EMBEDDED, KAFKA, BARE, BARE_TUNED = "embedded", "kafka", "bare", "bare_tuned"
TUNED = {"linger_ms": 10, "batch_size": 256 * 2**10, "compression_type": "lz4"}


class Everstill:
    """One way through everstill: a ring, a mirror, a stream, a loop."""

    def __init__(self, folder: pathlib.Path, stream: dict[str, Any], seed: int, stack: contextlib.ExitStack) -> None:
        folder.mkdir()
        write_settings(folder / "everstill.toml", settings_with({"stream": {"partitions": PARTITIONS}, **stream}))
        settings = load(folder / "everstill.toml", ServingSettings)
        place = folder_of(settings.capture.dir, MODEL)
        prepare(place, 1, settings.capture.ring_bytes, lambda _: 1e12)
        self._hand_over = HandOver(settings, Ring(path_of(place, 0)), seed)
        self._ends = [stack.enter_context(EndProcess(kind, folder)) for kind in ("mirror", "loop")]

    def round(self, num_pairs: int) -> dict[str, float]:
        """Fill the ring, then move it; returns figures by name."""
        start = time.monotonic()
        self._hand_over.offer(num_pairs)
        filled_s = time.monotonic() - start
        return {**_timed(self._ends, num_pairs), "hand_over_per_s": num_pairs / filled_s}


class Bare:
    """A bare producer and a bare consumer."""

    def __init__(
        self, folder: pathlib.Path, bootstrap: str, topic: str, tuned: dict[str, Any], stack: contextlib.ExitStack
    ) -> None:
        options = ["--topic", topic, "--bootstrap", bootstrap, "--settings", json.dumps(tuned)]
        self._ends = [stack.enter_context(EndProcess(kind, folder, *options)) for kind in ("produce", "consume")]

    def round(self, num_pairs: int) -> dict[str, float]:
        """Send and receive; returns figures by name."""
        return _timed(self._ends, num_pairs)


def measure(options: Options) -> Result:
    """Run the benchmark."""
    num_rounds, num_pairs = (3, 10_000) if options.quick else (7, 40_000)
    with tempfile.TemporaryDirectory(prefix="everstill-stream-") as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        cluster = stack.enter_context(brokers(folder / "broker"))
        _create_topics(cluster.bootstrap)
        ways: dict[str, Everstill | Bare] = {
            EMBEDDED: Everstill(folder / EMBEDDED, {}, options.seed, stack),
            KAFKA: Everstill(folder / KAFKA, {"stream.kafka": {"bootstrap": cluster.bootstrap}}, options.seed, stack),
            BARE: Bare(folder, cluster.bootstrap, BARE, {}, stack),
            BARE_TUNED: Bare(folder, cluster.bootstrap, BARE_TUNED, TUNED, stack),
        }
        rounds: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for one in ways.values():
            one.round(num_pairs // 4)  # warm up
        for number in range(num_rounds):
            for way in list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]:
                rounds[way].append(ways[way].round(num_pairs))
            shown = {way: round(each[-1]["pairs_per_s"]) for way, each in rounds.items()}
            harness.say(f"round {number + 1} of {num_rounds}: {shown}")
    return _judged(rounds, num_pairs)


def _timed(ends: list[EndProcess], num_pairs: int) -> dict[str, float]:
    for end in reversed(ends):
        end.go(num_pairs)
    first, last = (end.done() for end in ends)
    return {
        "pairs_per_s": num_pairs / (last["end_s"] - first["start_s"]),
        "sending_per_s": num_pairs / (first["end_s"] - first["start_s"]),
        "sending_cpu_us_per_pair": first["cpu_s"] / num_pairs * 1e6,
        "receiving_cpu_us_per_pair": last["cpu_s"] / num_pairs * 1e6,
    }


def _judged(rounds: dict[str, list[dict[str, float]]], num_pairs: int) -> Result:
    figures: dict[str, Any] = {"rounds": len(rounds[KAFKA]), "pairs_per_round": num_pairs, "partitions": PARTITIONS}
    for way, each in rounds.items():
        for name in each[0]:
            figures[f"{way}_{name}"] = spread([one[name] for one in each])
    for bare in (BARE, BARE_TUNED):
        ratios = [
            ours["pairs_per_s"] / theirs["pairs_per_s"]
            for ours, theirs in zip(rounds[KAFKA], rounds[bare], strict=True)
        ]
        figures[f"ratio_to_{bare}"] = spread(ratios)
    ratio = figures[f"ratio_to_{BARE}"]["median"]
    return Result(figures, [Check(f"ratio_to_{BARE}", ratio, ">=", GOAL)])


def _create_topics(bootstrap: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    counts = {topic(MODEL, kind): PARTITIONS if kind in (PAIRS, LABELS) else 1 for kind in KINDS}
    admin.create_topics(
        [NewTopic(name, count, 1) for name, count in {**counts, BARE: PARTITIONS, BARE_TUNED: PARTITIONS}.items()]
    )
    admin.close()


if __name__ == "__main__":
    raise SystemExit(harness.main("stream", __doc__, measure))
