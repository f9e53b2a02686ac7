"""The ends of the stream as processes that a benchmark times: `python -m benchmarks.stream_ends mirror|loop|whole|produce|consume FOLDER`.

`mirror` is the real mirror between a ring and the stream, its teacher an instant one inside the process; `loop` the real consumer
and intake, up to the learner, which takes no steps; `whole` the whole loop, that learns and saves. `produce` and `consume` are bare kafka-python, one record for each pair, its bytes
ready made. Each reads commands from standard input: `go N` (it says `done` when N pairs have passed), `quit`; and ends with it.
All times are of the system's monotonic clock.
"""

import argparse
import dataclasses
import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from benchmarks.pairs import LIVE, MODEL, NUM_CLASSES, NUM_FEATURES
from benchmarks.poison import SENT
from benchmarks.told import Told
from distill_loop.stream.consumer import Message
from protos import records_pb2 as records
from protos.records import input_key, mint_record_id
from protos.tensors import Array, to_record
from registry import logs
from registry.config import load
from registry.sections import LogSection

NUM_READY_MADE = 2_000
#: Wait of a loop that found nothing, in seconds; the default of `loop.poll_interval_s` would be most of what is measured.
IDLE_S = 0.005


class End(Protocol):
    """One end: moves pairs until so many have passed; returns what it has to tell of them."""

    def go(self, num_pairs: int) -> Mapping[str, float] | None: ...


@dataclasses.dataclass(frozen=True)
class InstantAnswer:
    """What the instant teacher says."""

    output_BC: Array
    attempts: int = 1
    version: str = "teacher-1"
    latency_s: float = 0.001


class InstantTeacher:
    """Answers at once and costs nothing: what is measured is the path."""

    is_open = False
    spans: Sequence[tuple[int, int]] = ()

    def __init__(self) -> None:
        self.breaker = self
        self._answers: dict[int, InstantAnswer] = {}

    def ask(self, inputs: Mapping[str, Array], *, before_attempt: Callable[[], bool]) -> InstantAnswer:
        """Answer the same for every row."""
        before_attempt()
        num_rows = len(next(iter(inputs.values())))
        if num_rows not in self._answers:
            self._answers[num_rows] = InstantAnswer(np.full((num_rows, NUM_CLASSES), 1 / NUM_CLASSES, np.float32))
        return self._answers[num_rows]


class MirrorEnd:
    """The mirror, from the ring to the stream's acknowledgement."""

    def __init__(self, folder: pathlib.Path) -> None:
        from serving import mirror_app
        from serving.config import ServingSettings
        from serving.shadow.publishers import open_publisher

        settings = load(folder / "everstill.toml", ServingSettings)
        teacher: Any = InstantTeacher()
        self._mirror = mirror_app.compose(settings, teacher, open_publisher(settings.stream, settings.model.name))

    def go(self, num_pairs: int) -> None:
        """Empty the ring."""
        while self._mirror.step():
            pass


class LoopEnd:
    """The loop's consumer and intake; it goes on where the last `go` ended."""

    def __init__(self, folder: pathlib.Path) -> None:
        from distill_loop.app import LoopProcess
        from distill_loop.config import LoopSettings
        from registry.lease import Lease
        from registry.store import open_store

        settings = load(folder / "everstill.toml", LoopSettings)
        store = open_store(settings.registry.url)
        self._process = LoopProcess(settings, store, Lease.acquire(store, MODEL, "loop", "benchmark", 3600.0))
        self._intake, self._progress = self._process.intake, self._process.progress
        self._progress.live = LIVE

    def go(self, num_pairs: int) -> Mapping[str, float] | None:
        """Take in so many pairs."""
        end = self._progress.read + num_pairs
        while self._progress.read < end:
            if messages := self._intake.poll():
                self._intake.take(messages)
            else:
                time.sleep(0.0005)
        assert not self._progress.dead
        assert not self._progress.repeats
        return None


class WholeLoop(LoopEnd):
    """The whole loop, that learns and saves too; it goes on where the last `go` ended."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder)
        self._take, self._delays_ns = self._intake.take, list[int]()
        self._intake.take = self._taken  # type: ignore[method-assign]

    def go(self, num_pairs: int) -> Mapping[str, float]:
        """Take in so many records, good or not, until the letters are safe; returns how many were not, and how long those waited that say when they were sent."""
        end, dead = self._progress.read + num_pairs, self._progress.dead
        self._delays_ns.clear()
        while self._progress.read < end:
            if not self._process.loop.turn():
                time.sleep(IDLE_S)
        self._process.dead_letters.flush()
        assert not self._progress.repeats
        quantiles = np.quantile(self._delays_ns or [0], (0.5, 0.99)) / 1e9
        dead = self._progress.dead - dead
        return {"delay_p50_s": float(quantiles[0]), "delay_p99_s": float(quantiles[1]), "dead": dead}

    def _taken(self, messages: list[Message]) -> None:
        """Take messages in, and note how long they were on their way."""
        self._take(messages)
        now_ns = time.time_ns()
        self._delays_ns += [now_ns - int(sent) for one in messages if (sent := one.headers.get(SENT))]


class BareProducer:
    """kafka-python's producer with the guarantees that the mirror asks for, one record for each pair.

    Args:
        settings: of `KafkaProducer`, beside those.
    """

    def __init__(self, bootstrap: str, topic: str, settings: dict[str, Any]) -> None:
        from kafka import KafkaProducer

        self._topic = topic
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, **settings)
        self._partitions = sorted(self._producer.partitions_for(topic))
        self._values = [_pair_bytes(number) for number in range(NUM_READY_MADE)]

    def go(self, num_pairs: int) -> None:
        """Send so many, and wait until all are acknowledged."""
        for number in range(num_pairs):
            partition = self._partitions[number % len(self._partitions)]
            self._producer.send(self._topic, self._values[number % NUM_READY_MADE], partition=partition)
        self._producer.flush()


class BareConsumer:
    """kafka-python's consumer, partitions assigned by hand; the values aren't even parsed."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        from kafka import KafkaConsumer, TopicPartition

        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest", group_id=None
        )
        places = [TopicPartition(topic, one) for one in sorted(self._consumer.partitions_for_topic(topic) or ())]
        self._consumer.assign(places)
        self._consumer.seek_to_end(*places)
        for place in places:
            self._consumer.position(place)

    def go(self, num_pairs: int) -> None:
        """Receive so many."""
        received = 0
        while received < num_pairs:
            received += sum(map(len, self._consumer.poll(500).values()))


def _pair_bytes(number: int) -> bytes:
    """Return a pair as it would lie in a record of its own."""
    rng = np.random.default_rng(number)
    tensor = to_record("features", rng.standard_normal((1, NUM_FEATURES), np.float32))
    pair = records.LogitPair(
        record_id=mint_record_id(),
        input_key=input_key([tensor]),
        time_unix_ns=time.time_ns(),
        stratum="served",
        inputs=[tensor],
    )
    pair.student.version, pair.teacher.version = LIVE[:12], "teacher-1"
    pair.student.logits.CopyFrom(to_record("logits", rng.standard_normal((1, NUM_CLASSES), np.float32)))
    pair.teacher.output.CopyFrom(to_record("output", rng.random((1, NUM_CLASSES), np.float32)))
    return pair.SerializeToString()


class EndProcess(Told):
    """An end in a process of its own, seen from the benchmark."""

    def __init__(self, kind: str, folder: pathlib.Path, *options: str) -> None:
        super().__init__("benchmarks.stream_ends", kind, str(folder), *options)

    def go(self, num_pairs: int) -> None:
        """Let it begin."""
        self.tell(f"go {num_pairs}")

    def done(self) -> dict[str, float]:
        """Wait for its end; returns `start_s`, `end_s` and `cpu_s`."""
        return self.hear()


def main() -> None:
    """Be one end, and do as standard input says."""
    parser = argparse.ArgumentParser(prog="benchmarks.stream_ends", description=__doc__)
    parser.add_argument("kind", choices=("mirror", "loop", "whole", "produce", "consume"))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--bootstrap", default="")
    parser.add_argument("--topic", default="", help="of the bare ends")
    parser.add_argument("--settings", default="{}", help="of the bare producer, as JSON")
    parser.add_argument(
        "--as-installed", action="store_true", help="kafka-python without crc32c, its optional C extension"
    )
    parsed = parser.parse_args()
    if parsed.as_installed:
        sys.modules["crc32c"] = None  # type: ignore[assignment]  # an import of it fails from here on
    logs.configure("benchmark", LogSection(level="warning"))
    made: dict[str, Callable[[], End]] = {
        "mirror": lambda: MirrorEnd(parsed.folder),
        "loop": lambda: LoopEnd(parsed.folder),
        "whole": lambda: WholeLoop(parsed.folder),
        "produce": lambda: BareProducer(parsed.bootstrap, parsed.topic, json.loads(parsed.settings)),
        "consume": lambda: BareConsumer(parsed.bootstrap, parsed.topic),
    }
    end = made[parsed.kind]()
    print(json.dumps({"ready": 1}), flush=True)
    for line in sys.stdin:
        command, _, number = line.strip().partition(" ")
        if command != "go":
            break
        started, cpu = time.monotonic(), _cpu_s()
        told = end.go(int(number)) or {}
        told = {"start_s": started, "end_s": time.monotonic(), "cpu_s": _cpu_s() - cpu, **told}
        print(json.dumps(told), flush=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
