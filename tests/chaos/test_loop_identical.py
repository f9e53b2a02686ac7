"""A deterministic loop that is killed again and again becomes, bit for bit, what one becomes that nobody interrupts."""

import hashlib
import pathlib
import struct
from typing import Any

import pytest
import torch

from distill_loop.stream.dedupe import Dedupe
from protos import records_pb2 as records
from protos.topics import PAIRS
from tests.support.loops import LoopUnderTest
from tests.support.publishing import make_pair
from tests.support.waiting import wait_for

PAIRS_PER_MESSAGE = 6
CHECKPOINTS_BEFORE_A_KILL = (2, 0, 3, 1)
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


def new_loop(folder: pathlib.Path, partitions: int) -> LoopUnderTest:
    folder.mkdir()
    loop = LoopUnderTest(folder)
    text = loop.config.read_text().replace("partitions = 2", f"partitions = {partitions}")
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


def life(folder: pathlib.Path, messages: list[bytes], partitions: int, *, num_kills: int = 0) -> dict[str, Any]:
    """Return what a loop becomes that is killed so often: while it starts, or some checkpoints later, in the middle of its work."""
    loop = new_loop(folder, partitions)
    for number, message in enumerate(messages):
        loop.writer.raw(PAIRS, number % partitions, message)
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
    messages = messages_of(120)

    straight, killed = life(tmp_path / "straight", messages, 1), life(tmp_path / "killed", messages, 1, num_kills=3)

    assert killed["learner"]["num_steps"] > 500
    assert killed["progress"]["dead"] == 1
    for part in ("learner", "progress", "dedupe", "agreement", "promise", "positions"):
        assert digest_of(killed[part]) == digest_of(straight[part]), part


@pytest.mark.slow
def test_with_several_partitions_a_killed_loop_learns_the_same_records(tmp_path: pathlib.Path) -> None:
    messages = messages_of(60)

    straight, killed = life(tmp_path / "straight", messages, 3), life(tmp_path / "killed", messages, 3, num_kills=2)

    assert learned_by(killed) == learned_by(straight)
    assert killed["progress"]["repeats"] == straight["progress"]["repeats"]
