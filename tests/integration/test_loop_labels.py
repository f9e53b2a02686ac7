"""Labels in a real loop process: joined with their rows across a kill, counted once, and told by `everstill status`."""

import pathlib
import time
from collections.abc import Iterator

import pytest

from everstill import inspect
from protos import records_pb2 as records
from protos.records import mint_record_id
from protos.topics import LABELS, partition_of
from tests.support.loops import LoopUnderTest
from tests.support.publishing import NUM_CLASSES, make_pair
from tests.support.waiting import wait_for

HOURS_NS = 3600 * 1_000_000_000


@pytest.fixture
def loop(tmp_path: pathlib.Path) -> Iterator[LoopUnderTest]:
    loop = LoopUnderTest(tmp_path)
    yield loop
    if loop.process is not None:
        loop.stop()
    loop.writer.close()


def served_pair(number: int, *, right: bool) -> records.LogitPair:
    """Return a pair whose row was answered by a student; the teacher says the truth, `number % NUM_CLASSES`."""
    pair = make_pair(number, student_label=(number + (not right)) % NUM_CLASSES)
    pair.record_id = mint_record_id()
    return pair


def publish_labels(loop: LoopUnderTest, pairs: list[records.LogitPair], first: int, *, after_ns: int = 0) -> None:
    for number, pair in enumerate(pairs, first):
        label = records.Label(
            record_id=pair.record_id,
            label_class=number % NUM_CLASSES,
            known=True,
            time_unix_ns=time.time_ns() + after_ns,
        )
        batch = records.LabelBatch(labels=[label]).SerializeToString()
        loop.writer.raw(LABELS, partition_of(pair.record_id[8:], 2), batch)


def wait_for_labels(loop: LoopUnderTest, **expected: int) -> dict[str, object]:
    """Return what the loop tells of labels once it has counted so many."""

    def told() -> dict[str, object] | None:
        labels: dict[str, object] = loop.status().get("labels") or {}
        return labels if labels and expected.items() <= labels.items() else None

    return wait_for(told, deadline_s=30, what=f"labels {expected}, not {loop.status().get('labels')}")


def test_labels_are_joined_with_their_rows_whatever_comes_first_and_across_a_kill(loop: LoopUnderTest) -> None:
    pairs = [served_pair(number, right=number % 4 != 0) for number in range(24)]
    loop.writer.raw(LABELS, 0, b"\xff\xff")  # no batch of labels
    publish_labels(loop, pairs[12:], 12)  # before their rows
    loop.writer.pairs(pairs[:12])
    loop.start()
    wait_for_labels(loop, joined=0, waiting=12)
    wait_for(lambda: loop.checkpoint()["labels"]["waiting"], what="a checkpoint that knows the labels")
    loop.kill()

    loop.writer.pairs(pairs[12:])
    publish_labels(loop, pairs[:12], 0)
    publish_labels(loop, pairs[:3], 0)  # again
    publish_labels(loop, [served_pair(99, right=True)], 99, after_ns=24 * 8 * HOURS_NS)
    loop.start()
    labels = wait_for_labels(loop, joined=24, repeated=3, late=1, waiting=0, unmatched=0, unusable=0)

    assert labels["student"] == pytest.approx({"estimate": 0.75, "low": 0.551, "high": 0.880, "num": 24}, abs=1e-3)
    assert labels["teacher"] == pytest.approx({"estimate": 1.0, "low": 0.862, "high": 1.0, "num": 24}, abs=1e-3)
    assert loop.status()["accounts"]["dead_messages_of_others"] == {LABELS: 1}
    status = {"model": "tiny", "live": None, "trial": None, "processes": {"loop": {**loop.status(), "age_s": 0.0}}}
    text = inspect.render_status(status)
    assert "right by feedback: student 0.750 [0.551, 0.880], teacher 1.000 [0.862, 1.000] over 24 labelled" in text
    assert "labels joined 24, late 1, repeated 3" in text
