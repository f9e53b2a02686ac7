"""What a pair costs between gateway and learner, beside bare kafka-python that sends each pair as a record of its own.

Each round moves the same number of pairs through one broker in every way, one after the other: from full rings through the real mirror
(its teacher an instant one), Kafka, and the loop's real consumer and intake, up to the learner; and from a bare producer to a bare
consumer, their bytes ready made, two processes each. A ratio is the median over rounds of the pair in one round. The bare ends have the guarantees that
the mirror asks for (acks=all, idempotent) and else kafka-python's defaults. What is judged is kafka-python as pip installs it, which computes checksums in Python, beside everstill as it installs itself, with a C
extension for them. `RATIOS` names every pair of ways: like beside like too, both with that extension and both without it. What a flood of poison costs is `flood`'s.
"""

import contextlib
import json
import pathlib
import tempfile
import time
from typing import Any

from kafka.admin import KafkaAdminClient, NewTopic

from benchmarks import flood, harness
from benchmarks.capture import spread
from benchmarks.chaos.rig import Plan, rig
from benchmarks.harness import Check, Options, Result
from benchmarks.pairs import MODEL, HandOver, settings_with
from benchmarks.processes import create_topics, wait_until, write_settings
from benchmarks.stream_ends import EndProcess
from registry.config import load
from serving.config import ServingSettings
from serving.shadow.ring import Ring
from serving.shadow.rings import folder_of, path_of, prepare
from tests.support.kafka import brokers

GOAL = 3.0
#: Pairs a second that arrive while the backlog of an outage is learned, and how much faster that must go.
ARRIVING_PER_S, MIN_CATCH_UP = 200, 10
PARTITIONS = 4
EMBEDDED, KAFKA, KAFKA_PLAIN = "embedded", "kafka", "kafka_without_crc32c"
BARE, BARE_FAST, BARE_TUNED = "bare", "bare_with_crc32c", "bare_with_crc32c_tuned"
AS_INSTALLED = "--as-installed"
SAMPLES, SPOOL_BYTES = "everstill_shadow_samples_total", "everstill_shadow_spool_bytes"
#: Ratios by name: pairs a second through everstill over those of bare kafka-python in the same round.
RATIOS = {
    "ratio_to_bare": (KAFKA, BARE),
    "ratio_both_with_crc32c": (KAFKA, BARE_FAST),
    "ratio_both_without_crc32c": (KAFKA_PLAIN, BARE),
    "ratio_to_bare_with_crc32c_tuned": (KAFKA, BARE_TUNED),
}
JUDGED = "ratio_to_bare"
TUNED = {"linger_ms": 10, "batch_size": 256 * 2**10, "compression_type": "lz4"}


class Everstill:
    """One way through everstill: a ring, a mirror, a stream, a loop."""

    def __init__(
        self, folder: pathlib.Path, stream: dict[str, Any], seed: int, stack: contextlib.ExitStack, *options: str
    ) -> None:
        folder.mkdir()
        write_settings(folder / "everstill.toml", settings_with({"stream": {"partitions": PARTITIONS}, **stream}))
        if "stream.kafka" in stream:
            create_topics(folder / "everstill.toml")
        settings = load(folder / "everstill.toml", ServingSettings)
        place = folder_of(settings.capture.dir, MODEL)
        prepare(place, 1, settings.capture.ring_bytes, lambda _: 1e12)
        self._hand_over = HandOver(settings, Ring(path_of(place, 0)), seed)
        self._ends = [stack.enter_context(EndProcess(kind, folder, *options)) for kind in ("mirror", "loop")]

    def round(self, num_pairs: int) -> dict[str, float]:
        """Fill the ring, then move it; returns figures by name."""
        start = time.monotonic()
        self._hand_over.offer(num_pairs)
        filled_s = time.monotonic() - start
        return {**_timed(self._ends, num_pairs), "hand_over_per_s": num_pairs / filled_s}


class Bare:
    """A bare producer and a bare consumer."""

    def __init__(
        self, folder: pathlib.Path, bootstrap: str, topic: str, stack: contextlib.ExitStack, *options: str
    ) -> None:
        options = ("--topic", topic, "--bootstrap", bootstrap, *options)
        self._ends = [stack.enter_context(EndProcess(kind, folder, *options)) for kind in ("produce", "consume")]

    def round(self, num_pairs: int) -> dict[str, float]:
        """Send and receive; returns figures by name."""
        return _timed(self._ends, num_pairs)


def measure(options: Options) -> Result:
    """Run the benchmark."""
    num_rounds, num_pairs = (3, 10_000) if options.quick else (5, 20_000)
    with tempfile.TemporaryDirectory(prefix="everstill-stream-") as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        cluster = stack.enter_context(brokers(folder / "broker"))
        _create_bare_topics(cluster.bootstrap)
        seed, bootstrap = options.seed, cluster.bootstrap
        ways: dict[str, Everstill | Bare] = {
            EMBEDDED: Everstill(folder / EMBEDDED, {}, seed, stack),
            KAFKA: Everstill(folder / KAFKA, _kafka(bootstrap, KAFKA), seed, stack),
            KAFKA_PLAIN: Everstill(folder / KAFKA_PLAIN, _kafka(bootstrap, KAFKA_PLAIN), seed, stack, AS_INSTALLED),
            BARE: Bare(folder, bootstrap, BARE, stack, AS_INSTALLED),
            BARE_FAST: Bare(folder, bootstrap, BARE_FAST, stack),
            BARE_TUNED: Bare(folder, bootstrap, BARE_TUNED, stack, "--settings", json.dumps(TUNED)),
        }
        rounds: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for one in ways.values():
            one.round(num_pairs // 4)  # warm up
        for number in range(num_rounds):
            for way in list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]:
                rounds[way].append(ways[way].round(num_pairs))
            shown = {way: round(each[-1]["pairs_per_s"]) for way, each in rounds.items()}
            harness.say(f"round {number + 1} of {num_rounds}: {shown}")
        shape, paced_s = ((3, 4_000), 2.0) if options.quick else ((num_rounds, num_pairs), 20.0)
        flooded, flood_checks = flood.measure(folder, bootstrap, seed, shape, paced_s)
        caught_up = catch_up(folder / "outage", 3_000 if options.quick else 30_000, options.seed)
    figures, checks = judged(rounds, num_pairs)
    pace = round(caught_up["catch_up_pairs_per_s"] / ARRIVING_PER_S, 2)
    caught = Check("catch_up_to_arrival_ratio", pace, ">=", MIN_CATCH_UP)
    return Result({**figures, **flooded, **caught_up}, [*checks, *flood_checks, caught])


def catch_up(folder: pathlib.Path, backlog: int, seed: int) -> dict[str, float]:
    """Take the broker from real processes until so many rows wait in the spool, bring it back, and time how the loop learns them.

    New rows arrive all the while; the loop learns, judges and saves as ever.
    """
    plan = Plan(rate=2.0 * ARRIVING_PER_S, sampling=0.5, seed=seed)
    with rig(folder, plan) as running:
        running.wait_for_pairs(ARRIVING_PER_S)
        running.cluster.kill()
        first = running.gateway.metric(SAMPLES)
        with running.burst():
            running.gateway.wait(lambda: running.gateway.metric(SAMPLES) - first > backlog, "a backlog", 300.0)
        before = running.pairs_read()
        running.cluster.start()
        start = time.monotonic()
        running.gateway.wait(lambda: running.gateway.metric(SPOOL_BYTES) == 0, "an empty spool", 300.0)
        wait_until(lambda: _has_caught_up(running.loop.status()), "the loop to catch up", every_s=0.05)
        seconds, learned = time.monotonic() - start, running.pairs_read() - before
    return {
        "backlog_pairs": backlog,
        "catch_up_s": round(seconds, 2),
        "catch_up_pairs_per_s": round(learned / seconds, 1),
    }


def _has_caught_up(status: dict[str, Any]) -> bool:
    lag = status.get("lag")  # None where the stream is away
    return lag is not None and lag <= PARTITIONS


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


def judged(rounds: dict[str, list[dict[str, float]]], num_pairs: int) -> tuple[dict[str, Any], list[Check]]:
    """Return the figures of all rounds, and what is judged of them."""
    figures: dict[str, Any] = {"rounds": len(rounds[KAFKA]), "pairs_per_round": num_pairs, "partitions": PARTITIONS}
    for way, each in rounds.items():
        for name in each[0]:
            figures[f"{way}_{name}"] = spread([one[name] for one in each])
    for name, (our_way, their_way) in RATIOS.items():
        ratios = [
            ours["pairs_per_s"] / theirs["pairs_per_s"]
            for ours, theirs in zip(rounds[our_way], rounds[their_way], strict=True)
        ]
        figures[name] = spread(ratios)
    return figures, [Check(JUDGED, figures[JUDGED]["median"], ">=", GOAL)]


def _kafka(bootstrap: str, prefix: str) -> dict[str, Any]:
    return {"stream.kafka": {"bootstrap": bootstrap, "topic_prefix": prefix}}


def _create_bare_topics(bootstrap: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in (BARE, BARE_FAST, BARE_TUNED)])
    admin.close()


if __name__ == "__main__":
    raise SystemExit(harness.main("stream", __doc__, measure))
