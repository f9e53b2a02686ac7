"""A deterministic loop that is killed again and again becomes, bit for bit, what one becomes that nobody interrupts."""

import contextlib
import pathlib
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from protos.topics import PAIRS
from registry.sections import KafkaSection
from tests.support.either_stream import create_topics, on_kafka
from tests.support.lives import DETERMINISTIC, changed, digest_of, written
from tests.support.loops import LoopUnderTest
from tests.support.waiting import wait_for

CHECKPOINTS_BEFORE_A_KILL = (2, 3, 0, 1)


def new_loop(folder: pathlib.Path, partitions: int, kafka: KafkaSection | None = None) -> LoopUnderTest:
    folder.mkdir()
    loop = LoopUnderTest(folder, kafka, partitions=partitions)
    loop.config.write_text(changed(loop.config.read_text(), DETERMINISTIC))
    return loop


def read_to_the_end(loop: LoopUnderTest) -> dict[str, Any]:
    """Let the loop read everything, stop it, and return what it has become."""
    assert loop.process is not None
    pid = loop.process.pid
    wait_for(
        lambda: (told := loop.status()) and told["pid"] == pid and told["lag"] == 0,
        deadline_s=60,
        what="the stream's end",
    )
    assert loop.stop() == 0
    loop.writer.close()
    return loop.checkpoint()


def life(folder: pathlib.Path, stream: pathlib.Path, partitions: int, *, num_kills: int = 0) -> dict[str, Any]:
    """Return what a loop becomes that is killed so often: while it starts, or some checkpoints later, in the middle of its work."""
    loop = new_loop(folder, partitions)
    shutil.copy(stream, folder)
    return lived(loop, num_kills)


def lived(loop: LoopUnderTest, num_kills: int) -> dict[str, Any]:
    for number in range(num_kills):
        kill_once(loop, CHECKPOINTS_BEFORE_A_KILL[number % 4])
    loop.start()
    return read_to_the_end(loop)


def kill_once(loop: LoopUnderTest, num_checkpoints: int) -> None:
    """Start the loop and kill it after so many checkpoints; with none, when it begins to work."""
    sequence, starts = _sequence(loop), loop.log().count("loop started")
    loop.start()
    if num_checkpoints:
        wait_for(lambda: _sequence(loop) >= sequence + num_checkpoints, deadline_s=60, what="checkpoints")
    else:
        wait_for(lambda: loop.log().count("loop started") > starts, deadline_s=60, what="the loop to start")
    loop.kill()


def _sequence(loop: LoopUnderTest) -> int:
    pointer = loop.pointers.checkpoint()
    return pointer.sequence if pointer else 0


def test_a_killed_loop_ends_bit_identical_to_one_that_nobody_interrupts(tmp_path: pathlib.Path) -> None:
    stream = written(tmp_path, 72, 1)

    with ThreadPoolExecutor() as pool:  # side by side: each is mostly the starts of its processes
        undisturbed = pool.submit(life, tmp_path / "straight", stream, 1)
        killed = life(tmp_path / "killed", stream, 1, num_kills=2)
        straight = undisturbed.result()

    assert killed["learner"]["num_steps"] > 300
    assert killed["progress"]["dead"] == 1
    for part in ("learner", "progress", "dedupe", "agreement", "promise", "positions"):
        assert digest_of(killed[part]) == digest_of(straight[part]), part


@pytest.mark.slow
def test_a_killed_loop_on_kafka_ends_as_one_on_the_embedded_stream(
    kafka_bootstrap: str, tmp_path: pathlib.Path
) -> None:
    stream = on_kafka(kafka_bootstrap).model_copy(update={"partitions": 1})
    create_topics(stream)
    file = written(tmp_path, 120, 1)
    loop = new_loop(tmp_path / "kafka", 1, stream.kafka)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        for (value,) in connection.execute("SELECT value FROM message ORDER BY offset"):
            loop.writer.raw(PAIRS, 0, value)

    embedded, killed = life(tmp_path / "embedded", file, 1), lived(loop, 5)

    for state in (embedded, killed):
        del state["learner"]["times"]  # the streams' own
    assert digest_of(killed["learner"]) == digest_of(embedded["learner"])
