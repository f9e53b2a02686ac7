"""Kill the producer with SIGKILL while it appends: what the ring took is read once and whole, and no counter is ever torn."""

import contextlib
import pathlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from serving.shadow.ring import Ring, create
from tests.support.appending import identity_of, payload_of

ROOT = pathlib.Path(__file__).parents[2]
FRAMES_PER_READ = 64


class Life:
    """One producer process, and the numbers that it said the ring took."""

    def __init__(self, path: pathlib.Path) -> None:
        command = [sys.executable, "-m", "tests.support.appending", str(path)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        self.said: list[int] = []
        self._thread = threading.Thread(target=self._listen, name="listener")
        self._thread.start()

    def kill(self) -> None:
        """End the producer, wherever it is."""
        self.process.kill()
        self.process.wait()
        self._thread.join()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.said += [int(line) for line in lines if line.endswith(b"\n")]


class Consumer:
    """Reads the ring beside the producer, and checks the counters that it sees meanwhile."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.ring = Ring(path)
        self.taken: list[tuple[int, int]] = []
        self._seen = (0, 0, 0)

    def step(self) -> None:
        """Take what is there."""
        for _, payload in self.ring.read(FRAMES_PER_READ):
            identity = identity_of(payload)
            assert payload == payload_of(*identity)
            self.taken.append(identity)
        self.ring.advance()
        for _ in range(50):
            seen = (self.ring.rows_seen, self.ring.dropped, self.ring.next_sequence)
            assert all(after >= before for before, after in zip(self._seen, seen, strict=True)), "a counter went back"
            assert 0 <= self.ring.pending_bytes <= self.ring.capacity
            self._seen = seen

    def reopen(self) -> None:
        """Be another process of the mirror: a ring in use is never taken for a damaged one."""
        gaps = self.ring.gaps
        self.ring.close()
        self.ring = Ring(self.path)
        self.ring.gaps = gaps


@contextlib.contextmanager
def producing(path: pathlib.Path) -> Iterator[Life]:
    """Run a producer; it has been killed when this returns."""
    life = Life(path)
    try:
        yield life
    finally:
        life.kill()


def survive(folder: pathlib.Path, *, num_kills: int, seed: int) -> None:
    """Kill producers one after the other at random moments, and check what came of it."""
    rng = random.Random(seed)
    path = folder / "ring"
    create(path, 2**16)
    consumer, said = Consumer(path), []
    for _ in range(num_kills):
        enough = len(consumer.taken) + rng.randrange(1, 2000)
        deadline = time.monotonic() + 30
        with producing(path) as life:
            while len(consumer.taken) < enough:
                assert time.monotonic() < deadline, "the producer appends nothing"
                consumer.step()
                consumer.reopen()
        said += [(life.process.pid, number) for number in life.said]
        create(path, 2**16)  # as the next worker does: it keeps what is there
    while consumer.ring.pending_bytes:
        consumer.step()

    assert len(set(consumer.taken)) == len(consumer.taken)
    assert set(said) <= set(consumer.taken)
    assert len(consumer.taken) - len(said) <= num_kills, "more than the one frame that each kill left unsaid"
    assert consumer.ring.gaps <= num_kills
    assert consumer.ring.next_sequence - len(consumer.taken) <= num_kills
    assert consumer.ring.rows_seen - consumer.ring.dropped - len(consumer.taken) in range(num_kills + 1)


def test_a_producer_that_is_killed_loses_nothing_that_the_ring_took(tmp_path: pathlib.Path) -> None:
    survive(tmp_path, num_kills=4, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_producer_that_is_killed_often_loses_nothing_that_the_ring_took(tmp_path: pathlib.Path, seed: int) -> None:
    survive(tmp_path, num_kills=40, seed=seed)
