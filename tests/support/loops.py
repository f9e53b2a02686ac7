"""A real loop process for tests, on a tiny model that learns in seconds."""

import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

from distill_loop.learner import checkpoint
from registry.ledger import Ledger
from registry.pointers import Pointers
from registry.sections import KafkaSection, StreamSection
from registry.status import read_statuses
from registry.store import open_store
from tests.support.publishing import NUM_CLASSES, WINDOW, StreamWriter

MODEL = "tiny"
CONFIG = f"""
[model]
name = "{MODEL}"
num_classes = {NUM_CLASSES}
inputs = [{{ name = "bytes", datatype = "INT32", shape = [-1, {WINDOW}] }}]
[registry]
url = "registry"
cache = "cache"
[stream]
path = "stream.sqlite"
partitions = 2
[learner]
hidden = 16
embedding = 8
buckets = 256
batch_size = 16
ring_pairs = 32
[release]
bootstrap_pairs = 32
bootstrap_steps = 64
cut_every_pairs = 24
[gate]
max_rows = 500
[loop]
metrics_port = 0
poll_interval_s = 0.02
checkpoint_every_s = 0.3
status_interval_s = 0.2
lease_s = 1.0
nice = 0
"""


class LoopUnderTest:
    """A folder with a configuration, a stream to publish to, and a loop that can be started and killed.

    Args:
        kafka: brokers, and the prefix of topics that are there; without them the stream is a file.
        partitions: of the pairs topic.
    """

    def __init__(self, folder: pathlib.Path, kafka: KafkaSection | None = None, *, partitions: int = 2) -> None:
        self.folder = folder
        self.config = folder / "everstill.toml"
        text = CONFIG.replace("partitions = 2", f"partitions = {partitions}")
        self.config.write_text(text + (_kafka_toml(kafka) if kafka else ""))
        self.store = open_store(str(folder / "registry"))
        self.pointers = Pointers(self.store, MODEL)
        self.ledger = Ledger(self.store, MODEL)
        self.stream = StreamSection(path=folder / "stream.sqlite", partitions=partitions, kafka=kafka or KafkaSection())
        self.writer = StreamWriter(self.stream.path, MODEL, partitions, kafka)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the loop; its log goes to the folder."""
        with (self.folder / "loop.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "distill_loop.app", "--config", str(self.config)],
                stderr=log,
                env=dict(os.environ),
            )

    def kill(self) -> None:
        """End the loop as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Stop the loop gracefully and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(60)

    def status(self) -> dict[str, Any]:
        """Return the loop's newest status, or nothing before the first."""
        return read_statuses(self.store, MODEL).get("loop", {})

    def checkpoint(self) -> dict[str, Any]:
        """Return the newest checkpoint's state."""
        pointer = self.pointers.checkpoint()
        assert pointer is not None
        return checkpoint.load(self.store.get(pointer.path).data)

    def log(self) -> str:
        """Return what the loop logged."""
        path = self.folder / "loop.log"
        return path.read_text() if path.exists() else ""


def _kafka_toml(kafka: KafkaSection) -> str:
    return f'[stream.kafka]\nbootstrap = "{kafka.bootstrap}"\ntopic_prefix = "{kafka.topic_prefix}"\n'
