"""The mirror's process: a thread for each model, and one that fails ends them all."""

import threading

import pytest

from registry.stopping import Stopping
from serving.mirror_app import Threads


class Mirrored:
    """A model's mirror that fails when the test says so."""

    def __init__(self) -> None:
        self.fails = threading.Event()
        self.ended = False

    def run(self, stopping: threading.Event) -> None:
        while not stopping.wait(0.01):
            if self.fails.is_set():
                raise RuntimeError("unforeseen")
        self.ended = True


@pytest.fixture
def mirrored() -> dict[str, Mirrored]:
    return {"a": Mirrored(), "b": Mirrored()}


def test_every_model_is_mirrored_until_the_word_to_stop(mirrored: dict[str, Mirrored]) -> None:
    stopping = Stopping()
    threading.Timer(0.05, stopping.tell).start()
    threads = Threads(mirrored, stopping)  # type: ignore[arg-type]

    threads.run()

    assert all(one.ended for one in mirrored.values())
    assert not threads.failed


def test_a_mirror_that_fails_ends_the_process_and_the_others_end_well(mirrored: dict[str, Mirrored]) -> None:
    mirrored["a"].fails.set()
    threads = Threads(mirrored, Stopping())  # type: ignore[arg-type]

    threads.run()

    assert threads.failed
    assert mirrored["b"].ended
