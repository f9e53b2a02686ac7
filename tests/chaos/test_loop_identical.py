"""A deterministic loop that is killed again and again becomes, bit for bit, what one becomes that nobody interrupts."""

import contextlib
import hashlib
import pathlib
import shutil
import sqlite3
import struct
from typing import Any

import pytest
import torch

from distill_loop.stream.dedupe import Dedupe
from protos import records_pb2 as records
from protos.topics import PAIRS
from registry.sections import KafkaSection
from tests.support.either_stream import create_topics, on_kafka
from tests.support.loops import MODEL, LoopUnderTest
from tests.support.publishing import StreamWriter, make_pair
from tests.support.waiting import wait_for

PAIRS_PER_MESSAGE = 6
CHECKPOINTS_BEFORE_A_KILL = (2, 3, 0, 1)
DETERMINISTIC = {
    "[loop]": "[loop]\ndeterministic = true\ncheckpoint_every_messages = 4",
    "cut_every_pairs = 24": "cut_every_pairs = 48",
}


def digest_of(state: Any) -> str:
    """Return one SHA-256 over a state's types, tensors and values."""
    digest = hashlib.sha256()

    def add(one: Any) -> None:
        digest.update(type(one).__name__.encode())
        if isinstance(one, torch.Tensor):
            digest.update(f"{one.dtype}{tuple(one.shape)}".encode() + one.contiguous().numpy().tobytes())
        elif isinstance(one, dict):
            for name, value in one.items():
                add(name)
                add(value)
        elif isinstance(one, list | tuple):
            for value in one:
                add(value)
        elif isinstance(one, float):
            digest.update(struct.pack("<d", one))
        else:
            digest.update(repr(one).encode() if not isinstance(one, bytes) else one)

    add(state)
    return digest.hexdigest()


def messages_of(num_messages: int) -> list[bytes]:
    """Return messages of pairs; every fifth begins with a pair of the one before, and one is no message at all."""
    messages = []
    for number in range(num_messages):
        first = number * PAIRS_PER_MESSAGE - (number % 5 == 4)
        batch = records.PairBatch(pairs=[make_pair(one) for one in range(first, first + PAIRS_PER_MESSAGE)])
        messages.append(batch.SerializeToString() if number != 9 else b"\xff rubbish")
    return messages


def new_loop(folder: pathlib.Path, partitions: int, kafka: KafkaSection | None = None) -> LoopUnderTest:
    folder.mkdir()
    loop = LoopUnderTest(folder, kafka, partitions=partitions)
    text = loop.config.read_text()
    for old, new in DETERMINISTIC.items():
        text = text.replace(old, new)
    loop.config.write_text(text)
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


def written(folder: pathlib.Path, num_messages: int, partitions: int) -> pathlib.Path:
    """Write messages to a stream file; both lives read copies of it, times and all."""
    path = folder / "stream.sqlite"
    writer = StreamWriter(path, MODEL, partitions)
    for number, message in enumerate(messages_of(num_messages)):
        writer.raw(PAIRS, number % partitions, message)
    writer.close()
    return path


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


def learned_by(state: dict[str, Any]) -> set[bytes]:
    window = Dedupe(10**6)
    window.load_state_dict(state["dedupe"])
    return window.records("learned")


def test_a_killed_loop_ends_bit_identical_to_one_that_nobody_interrupts(tmp_path: pathlib.Path) -> None:
    stream = written(tmp_path, 72, 1)

    straight, killed = life(tmp_path / "straight", stream, 1), life(tmp_path / "killed", stream, 1, num_kills=2)

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


@pytest.mark.slow
def test_with_several_partitions_a_killed_loop_learns_the_same_records(tmp_path: pathlib.Path) -> None:
    stream = written(tmp_path, 60, 3)

    straight, killed = life(tmp_path / "straight", stream, 3), life(tmp_path / "killed", stream, 3, num_kills=2)

    assert learned_by(killed) == learned_by(straight)
    assert killed["progress"]["repeats"] == straight["progress"]["repeats"]
