"""A writer and a reader of a stream as processes of their own: `python -m tests.support.stream_ends write|read STREAM.json NUMBER`.

The writer publishes numbers from NUMBER on, two by two, and says each that is safe. The reader reads from offset NUMBER on, and says
`OFFSET VALUE` for each message that it dealt with. Both go on until they are killed.
"""

import os
import pathlib
import signal
import subprocess
import sys
import threading

from distill_loop.stream.streams import open_consumer
from protos.topics import PAIRS
from registry.sections import StreamSection
from serving.shadow.message import Message
from serving.shadow.publishers import open_publisher
from tests.support.either_stream import MODEL

ROOT = pathlib.Path(__file__).parents[2]


class End:
    """One life of a writer or a reader, and the lines that it said."""

    def __init__(self, what: str, settings: pathlib.Path, number: int) -> None:
        command = [sys.executable, "-m", "tests.support.stream_ends", what, str(settings), str(number)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        self.said: list[bytes] = []
        self._thread = threading.Thread(target=self._listen, name=what)
        self._thread.start()

    def kill(self) -> list[bytes]:
        """End it, wherever it is; returns what it said."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._thread.join()
        return self.said

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    self.said.append(line.strip())


def _write(settings: StreamSection, number: int) -> None:
    publisher = open_publisher(settings, MODEL)
    while True:
        publisher.publish([Message(PAIRS, 0, b"%d" % one) for one in (number, number + 1)])
        os.write(1, b"%d\n%d\n" % (number, number + 1))
        number += 2


def _read(settings: StreamSection, number: int) -> None:
    consumer = open_consumer(settings, MODEL, {PAIRS: settings.partitions})
    consumer.seek({(PAIRS, 0): number})
    while True:
        for message in consumer.poll(100):
            consumer.advance(message)
            os.write(1, b"%d %s\n" % (message.offset, message.value))


if __name__ == "__main__":
    {"write": _write, "read": _read}[sys.argv[1]](
        StreamSection.model_validate_json(pathlib.Path(sys.argv[2]).read_text()), int(sys.argv[3])
    )
