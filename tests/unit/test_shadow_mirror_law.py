"""The mirror's law: whatever happens in whatever order, every row is published, missing, or still waits."""

import contextlib
import gc
import pathlib
import tempfile
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import records_pb2 as records
from registry.sections import KafkaSection, StreamSection
from serving.shadow.kafka_publisher import KafkaPublisher
from serving.shadow.message import Message
from tests.support.shadow import (
    Crashed,
    Shadow,
    make_sample,
    make_trial_sample,
    open_rows,
    open_trial,
)

pytestmark = pytest.mark.usefixtures("no_sync")


# Memory


def test_memory_stays_flat_while_no_broker_answers_and_the_spool_is_full(shadow: Shadow) -> None:
    kafka = KafkaSection(bootstrap="127.0.0.1:9")  # nothing listens there
    with contextlib.closing(KafkaPublisher(StreamSection(kafka=kafka), "m")) as publisher:
        shadow.restart(publisher=publisher)
        samples = [make_sample(number, width=512) for number in range(50)]

        def held_after(num_rows: int) -> int:
            for _ in range(num_rows // len(samples)):
                shadow.hand_over(samples)
                shadow.settle()
                shadow.teacher.asked.clear()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        held_after(1_000)  # the spool is full from here on
        tracemalloc.start()
        try:
            grown_bytes = -held_after(500) + held_after(2_000)
        finally:
            tracemalloc.stop()

    assert shadow.mirror_report().strata[0].dropped > 1_500
    assert shadow.waiting_stream.num_bytes > 2**19
    assert grown_bytes < 2_000 * 8  # not even a row's id, of 2 KiB that it has


# The law

TOGGLES = ["teacher away", "teacher shut", "stream", "stream partly", "disk"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("uniform"), st.integers(1, 12)),
        st.tuples(st.just("trial"), st.integers(1, 6)),
        st.tuples(st.sampled_from([*TOGGLES, "step", "kill"]), st.just(0)),
        st.tuples(st.just("killed in a step"), st.integers(1, 12)),
    ),
    max_size=30,
)


class Story:
    """A mirror that lives through what hypothesis thinks of."""

    def __init__(self, folder: pathlib.Path, num_workers: int) -> None:
        self.shadow = Shadow(folder, num_workers=num_workers, spool_bytes=2**22)
        self.next_input = 0
        self.handed: list[bytes] = []
        self.disagreements: set[bytes] = set()
        self.kill()

    def kill(self) -> None:
        """Let another mirror take over, in the middle of the same trial."""
        self.shadow.restart(budget_burst=30, budget_ratio=0.5)
        self.shadow.mirror.set_trial(open_trial(differs=frozenset(range(0, 10_000, 2))))

    def live(self, name: str, num: int) -> None:
        """Let one thing happen."""
        shadow = self.shadow
        if name in ("uniform", "trial"):
            make = make_sample if name == "uniform" else make_trial_sample
            self.handed += shadow.hand_over([make(self.next_input + place) for place in range(num)])
            self.next_input += num
        elif name == "step":
            shadow.mirror.step()
        elif name == "kill":
            self.kill()
        elif name == "killed in a step":
            shadow.fuse.left = num
            with contextlib.suppress(Crashed):
                shadow.mirror.step()
            self.kill()
        else:
            part, attribute = {
                "teacher away": (shadow.teacher, "away"),
                "teacher shut": (shadow.teacher, "shut"),
                "stream": (shadow.stream, "away"),
                "stream partly": (shadow.stream, "partly"),
                "disk": (shadow.disk, "full"),
            }[name]
            setattr(part, attribute, not getattr(part, attribute))
        assert open_rows(shadow.mirror_report()) == {}
        assert len(shadow.teacher.asked) <= shadow.ring.teacher_rows <= 30 + 0.5 * shadow.ring.rows_seen

    def heal(self) -> None:
        """Let everything be there again, and the budget last."""
        shadow = self.shadow
        shadow.teacher.away = shadow.teacher.shut = shadow.stream.away = shadow.stream.partly = shadow.disk.full = False
        shadow.worker.count_seen(10_000)
        shadow.settle()


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(1, 3))
def test_every_row_is_published_or_missing_whatever_happened(steps: list[tuple[str, Any]], num_workers: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = Story(pathlib.Path(folder), num_workers)

        for name, num in steps:
            story.live(name, num)
        story.heal()

        shadow, stream = story.shadow, story.shadow.stream
        published = {pair.record_id for pair in stream.pairs()} | {row.record_id for row in stream.trial_rows()}
        report = shadow.mirror_report()
        assert published <= set(story.handed)
        assert open_rows(report) == {}
        assert sum(one.sampled for one in report.strata) == len(story.handed)
        assert sum(one.published for one in report.strata) == len(published)
        assert sum(one.missing for one in report.strata) == len(story.handed) - len(published)
        if not {"killed in a step", "stream partly"} & {name for name, _ in steps}:
            assert len(stream.pairs()) == len({pair.record_id for pair in stream.pairs()})
        assert shadow.ring.pending_bytes == shadow.waiting_teacher.num_bytes == shadow.waiting_stream.num_bytes == 0
        assert shadow.ring.gaps == 0
        assert settled_before_their_rows(stream.messages) == set()
        disagreed = {row.record_id for row in stream.trial_rows() if not row.agree}
        assert disagreed == {pair.record_id for pair in stream.pairs() if pair.HasField("trial")}


def settled_before_their_rows(messages: list[Message]) -> set[bytes]:
    """Return the records of a trial whose pair came before their row."""
    rows: set[bytes] = set()
    early = set()
    for message in messages:
        if message.kind == "trials":
            rows |= {row.record_id for row in records.TrialBatch.FromString(message.value).rows}
        elif message.kind == "pairs":
            pairs = records.PairBatch.FromString(message.value).pairs
            early |= {pair.record_id for pair in pairs if pair.HasField("trial") and pair.record_id not in rows}
    return early
