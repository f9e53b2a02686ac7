"""A mirror in a process of its own, for tests that kill it: `python -m tests.support.draining FOLDER [FAULTS]` drains until it is told to stop.

Ring, journal, spools, budget and stream are the real ones; the teacher is a fake. A teacher or a stream that is away (`--teacher-away`, `--stream-away`)
comes and goes at the toss of a coin; `--small-spool` gives the spools room for a few steps.
"""

import pathlib
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping

from protos import records_pb2 as records
from protos.tensors import Array
from registry import logs
from registry.sections import LogSection
from serving.config import TeacherSection
from serving.shadow.asking import Asking
from serving.shadow.budget import Budget
from serving.shadow.embedded_publisher import EmbeddedPublisher
from serving.shadow.journal import Journal
from serving.shadow.judging import Judging
from serving.shadow.message import Message, StreamUnavailable
from serving.shadow.mirror import Identity, Mirror
from serving.shadow.placing import Placing
from serving.shadow.ring import Ring
from serving.shadow.rings import Rings
from serving.shadow.spool import Spool
from tests.support.shadow import KEY, MAX_BATCH, FakeAnswer, FakeTeacher

MODEL, PARTITIONS = "m", 2
RING, STREAM = "ring", "stream.sqlite"


class FlakyTeacher(FakeTeacher):
    """A teacher that gives every other call no answer."""

    def ask(self, inputs: Mapping[str, Array], *, before_attempt: Callable[[], bool]) -> FakeAnswer:
        """Answer, or not."""
        self.away = random.random() < 0.5
        return super().ask(inputs, before_attempt=before_attempt)


class FlakyPublisher(EmbeddedPublisher):
    """A stream that takes all, nothing, or the first half."""

    def publish(self, messages: list[Message]) -> None:
        """Write messages, or some of them."""
        taken = random.choice([0, len(messages) // 2, len(messages)])
        super().publish(messages[:taken])
        if taken < len(messages):
            raise StreamUnavailable("away", rest=messages[taken:])


def main(folder: pathlib.Path, faults: list[str]) -> None:
    """Drain the folder's ring into its stream until SIGTERM."""
    teacher = FlakyTeacher() if "--teacher-away" in faults else FakeTeacher()
    publisher = FlakyPublisher if "--stream-away" in faults else EmbeddedPublisher
    spool_bytes = 2**14 if "--small-spool" in faults else 2**20
    logs.configure("mirror", LogSection(level="error"))
    rings = Rings({0: Ring(folder / RING)})
    budget = Budget(TeacherSection(budget_burst=1_000_000, max_calls_per_s=1e9), rings)
    mirror = Mirror(
        Identity("gateway-1", MODEL, PARTITIONS, 0.1),
        rings,
        budget,
        Judging(budget, KEY),
        Asking(teacher, budget, model=MODEL, kind=records.OUTPUT_KIND_PROBABILITIES, max_batch=MAX_BATCH),
        Placing(
            MODEL,
            rings,
            Journal(folder),
            publisher(folder / STREAM, MODEL, retention_s=1e9),
            lambda name, position: Spool(
                folder / f"spool-{name}", max_bytes=spool_bytes, retention_s=1e9, position=position
            ),
        ),
    )
    told: list[int] = []  # an event's lock may be held where the handler runs
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    mirror.run(lambda: bool(told), time.sleep)
    mirror.empty(deadline_s=20.0)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
