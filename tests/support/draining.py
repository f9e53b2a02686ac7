"""A mirror in a process of its own, for tests that kill it: `python -m tests.support.draining FOLDER` drains until it is told to stop.

Ring, spools, budget and stream are the real ones; the teacher is a fake.
"""

import pathlib
import signal
import sys
import time

from protos import records_pb2 as records
from registry import logs
from registry.sections import LogSection
from serving.config import TeacherSection
from serving.shadow.budget import Budget
from serving.shadow.embedded_publisher import EmbeddedPublisher
from serving.shadow.mirror import Identity, Mirror
from serving.shadow.ring import Ring
from serving.shadow.rings import Rings
from serving.shadow.spool import Spool
from tests.support.shadow import KEY, MAX_BATCH, FakeTeacher

MODEL, PARTITIONS = "m", 2
RING, STREAM = "ring", "stream.sqlite"


def main(folder: pathlib.Path) -> None:
    """Drain the folder's ring into its stream until SIGTERM."""
    logs.configure("mirror", LogSection(level="error"))
    ring = Rings({0: Ring(folder / RING)})
    mirror = Mirror(
        Identity("gateway-1", MODEL, PARTITIONS, records.OUTPUT_KIND_PROBABILITIES, MAX_BATCH, 0.1, KEY),
        ring,
        Budget(TeacherSection(budget_burst=1_000_000, max_calls_per_s=1e9), ring),
        FakeTeacher(),
        EmbeddedPublisher(folder / STREAM, MODEL, retention_s=1e9),
        waiting_teacher=_spool(folder / "spool-teacher"),
        waiting_stream=_spool(folder / "spool-stream"),
    )
    told: list[int] = []  # an event's lock may be held where the handler runs
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    mirror.run(lambda: bool(told), time.sleep)
    mirror.empty(deadline_s=20.0)


def _spool(folder: pathlib.Path) -> Spool:
    return Spool(folder, max_bytes=2**20, retention_s=1e9, on_dropped=lambda payloads, reason: None)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
