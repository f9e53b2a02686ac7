"""The mirror: whatever is away, full or killed, a sampled row is published, counted as missing, or still waits."""

import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import records_pb2 as records
from protos.records import ARM_PASS_THROUGH, ARM_TRIAL, ARM_UNIFORM
from protos.tensors import Array, from_record, to_record
from serving.shadow.publisher import Message
from serving.shadow.ring import HEADER_BYTES
from serving.shadow.trial import OpenTrial
from serving.telemetry import MISSING, PUBLISHED
from tests.support.shadow import NUM_CLASSES, FakeStudent, Shadow, make_sample, make_trial_sample, open_trial

GOLDEN = pathlib.Path(__file__).parents[1] / "contract" / "golden" / "sample.v1.bin"


@pytest.fixture(autouse=True, scope="module")
def _no_sync() -> Iterator[None]:
    """Leave out the wait for the disk: no test here cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def shadow(tmp_path: pathlib.Path) -> Shadow:
    return Shadow(tmp_path)


def ids_of(shadow: Shadow) -> list[bytes]:
    return [pair.record_id for pair in shadow.stream.pairs()]


def missing_rows() -> float:
    (metric,) = MISSING.collect()
    return sum(sample.value for sample in metric.samples if sample.name.endswith("_total"))


def uniform(num: int, first: int = 0) -> list[records.Sample]:
    return [make_sample(number) for number in range(first, first + num)]


# What happens to the rows of the uniform arm


def test_a_sample_becomes_a_pair_with_the_teachers_answer(shadow: Shadow) -> None:
    sample = make_sample(7)
    shadow.hand_over([sample])

    shadow.settle()

    (pair,) = shadow.stream.pairs()
    assert (pair.record_id, pair.input_key, pair.inputs) == (sample.record_id, sample.input_key, sample.inputs)
    assert (pair.student, pair.arms, pair.stratum) == (sample.student, sample.arms, sample.stratum)
    assert (pair.teacher.version, pair.teacher.kind, pair.teacher.cost) == (
        "teacher-1",
        records.OUTPUT_KIND_PROBABILITIES,
        1.0,
    )
    assert from_record(pair.teacher.output).tolist() == [[0, 0, 1]]
    assert shadow.ring.pending_bytes == 0


def test_equal_inputs_meet_in_one_partition(shadow: Shadow) -> None:
    shadow.hand_over([make_sample(number % 5) for number in range(20)])

    shadow.settle()

    places: dict[bytes, set[int]] = {}
    for message in shadow.stream.of("pairs"):
        for pair in records.PairBatch.FromString(message.value).pairs:
            places.setdefault(pair.input_key, set()).add(message.partition)
    assert len(places) == 5
    assert all(len(partitions) == 1 for partitions in places.values())


def test_a_row_that_the_teacher_answered_for_the_caller_is_not_asked_again(shadow: Shadow) -> None:
    sample = make_sample(1, arms=(ARM_PASS_THROUGH,))
    sample.ClearField("student")
    sample.teacher.version = "teacher-1"
    sample.teacher.output.CopyFrom(to_record("output", np.eye(1, NUM_CLASSES, dtype=np.float32)))
    shadow.hand_over([sample])

    shadow.settle()

    assert shadow.teacher.asked == []
    assert [pair.teacher for pair in shadow.stream.pairs()] == [sample.teacher]


def test_rows_that_the_budget_does_not_allow_are_missing_and_not_asked(shadow: Shadow) -> None:
    before = missing_rows()
    shadow.restart(budget_burst=3, budget_ratio=0.0)
    shadow.hand_over(uniform(10))

    shadow.settle()

    assert len(shadow.teacher.asked) == len(ids_of(shadow)) == 3
    assert missing_rows() - before == 7


def test_retries_are_calls(shadow: Shadow) -> None:
    shadow.teacher.failures = 2
    shadow.hand_over(uniform(4))

    shadow.settle()

    assert len(shadow.teacher.asked) == shadow.ring.teacher_rows == 12
    assert {pair.teacher.cost for pair in shadow.stream.pairs()} == {3.0}


def test_retries_never_exceed_the_budget(shadow: Shadow) -> None:
    shadow.restart(budget_burst=10, budget_ratio=0.0)
    shadow.teacher.failures = 100
    shadow.hand_over(uniform(8))

    shadow.settle()

    assert len(shadow.teacher.asked) == shadow.ring.teacher_rows <= 10
    assert shadow.waiting_teacher.num_bytes > 0


def test_a_teacher_that_refuses_costs_those_rows_only(shadow: Shadow) -> None:
    before = missing_rows()
    shadow.teacher.refuses = True
    shadow.hand_over(uniform(3))
    shadow.settle()

    shadow.teacher.refuses = False
    later = shadow.hand_over(uniform(2, first=3))
    shadow.settle()

    assert ids_of(shadow) == later
    assert missing_rows() - before == 3
    assert shadow.waiting_teacher.num_bytes == 0


# Something is away


def test_while_the_teacher_is_away_pairs_wait_on_disk_and_are_asked_later(shadow: Shadow) -> None:
    shadow.teacher.away = True
    handed = shadow.hand_over(uniform(10))
    shadow.settle()
    assert shadow.stream.pairs() == []
    assert shadow.ring.pending_bytes == 0

    shadow.teacher.away = False
    shadow.restart()
    shadow.settle()

    assert sorted(ids_of(shadow)) == sorted(handed)
    assert shadow.waiting_teacher.num_bytes == 0


def test_an_open_breaker_costs_no_budget(shadow: Shadow) -> None:
    shadow.teacher.shut = True
    shadow.hand_over(uniform(10))

    shadow.settle()

    assert shadow.ring.teacher_rows == 0
    assert shadow.waiting_teacher.num_bytes > 0


def test_what_the_budget_leaves_is_used_though_it_is_less_than_a_lot(shadow: Shadow) -> None:
    shadow.restart(budget_burst=3, budget_ratio=0.0)
    shadow.teacher.shut = True
    for first in (0, 3):
        shadow.hand_over(uniform(3, first))
        shadow.settle()

    shadow.teacher.shut = False
    shadow.settle()

    assert len(ids_of(shadow)) == shadow.ring.teacher_rows == 3


def test_a_shape_that_is_always_too_slow_does_not_hold_up_the_others(shadow: Shadow) -> None:
    shadow.teacher.shut = True
    wide = shadow.hand_over([make_sample(0, width=8)])
    shadow.settle()
    others = shadow.hand_over(uniform(9))
    shadow.settle()

    shadow.teacher.shut, shadow.teacher.too_wide = False, 8
    shadow.settle()
    assert sorted(ids_of(shadow)) == sorted(others)

    shadow.teacher.too_wide = None
    shadow.settle()
    assert sorted(ids_of(shadow)) == sorted(others + wide)


def test_while_the_stream_is_away_messages_wait_on_disk_and_keep_their_order(shadow: Shadow) -> None:
    shadow.stream.away = True
    handed = []
    for number in range(3):
        handed += shadow.hand_over([make_sample(0) for _ in range(3)])
        if number == 1:
            shadow.restart()
        shadow.mirror.step()
    assert shadow.ring.pending_bytes == 0

    shadow.stream.away = False
    handed += shadow.hand_over([make_sample(0)])
    shadow.settle()

    assert ids_of(shadow) == handed  # one input, so one partition: the order of the stream is the order of the ring
    assert shadow.waiting_stream.num_bytes == 0


def test_a_published_record_is_counted_when_it_is_published(shadow: Shadow) -> None:
    before = PUBLISHED.labels("pairs")._value.get()
    shadow.stream.away = True
    shadow.hand_over(uniform(5))
    shadow.settle()
    assert PUBLISHED.labels("pairs")._value.get() == before

    shadow.stream.away = False
    shadow.settle()

    assert PUBLISHED.labels("pairs")._value.get() - before == 5


def test_with_the_disk_full_too_nothing_more_is_read_and_nothing_is_lost(shadow: Shadow) -> None:
    shadow.stream.away = shadow.disk.full = True
    handed = shadow.hand_over(uniform(200))

    assert [shadow.mirror.step() for _ in range(3)] == [0, 0, 0]
    assert shadow.ring.pending_frames == 200
    assert len(shadow.teacher.asked) <= 64

    shadow.stream.away = shadow.disk.full = False
    shadow.settle()
    assert sorted(ids_of(shadow)) == sorted(handed)
    assert shadow.ring.pending_bytes == 0


def test_with_teacher_and_disk_away_pairs_wait_and_nothing_is_lost(shadow: Shadow) -> None:
    shadow.teacher.away = shadow.disk.full = True
    handed = shadow.hand_over(uniform(100))
    assert [shadow.mirror.step() for _ in range(3)] == [0, 0, 0]
    assert shadow.ring.pending_frames == 100

    shadow.teacher.away = shadow.disk.full = False
    shadow.settle()

    assert sorted(ids_of(shadow)) == sorted(handed)


def test_what_the_full_spool_drops_is_counted(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, spool_bytes=8192)
    shadow.stream.away = True
    handed = set()
    for first in range(0, 200, 10):
        handed |= set(shadow.hand_over(uniform(10, first)))
        shadow.settle()

    shadow.stream.away = False
    shadow.settle()

    lost = sum(Message.from_spool(payload).num_rows for payload in shadow.dropped)
    assert lost > 0
    assert len(ids_of(shadow)) + lost == len(handed)


# What came damaged


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", GOLDEN.read_bytes()[:-1]], ids=["noise", "a torn golden sample"])
def test_a_frame_that_is_no_sample_is_counted_and_passed_over(shadow: Shadow, payload: bytes) -> None:
    before = missing_rows()
    shadow.worker.append(payload)
    handed = shadow.hand_over(uniform(2))

    shadow.settle()

    assert sorted(ids_of(shadow)) == sorted(handed)
    assert missing_rows() - before == 1


def test_a_ring_of_damaged_frames_alone_is_passed_over_and_works_again(shadow: Shadow, tmp_path: pathlib.Path) -> None:
    shadow.hand_over(uniform(1))
    with (tmp_path / "ring").open("r+b") as file:
        file.seek(HEADER_BYTES + 20)
        file.write(b"\xff")

    shadow.mirror.step()
    assert shadow.ring.pending_bytes == 0

    handed = shadow.hand_over(uniform(1))
    shadow.settle()
    assert ids_of(shadow) == handed
    assert shadow.ring.gaps == 1


# Trials


def test_trial_rows_are_published_before_the_pairs_that_settle_them(shadow: Shadow) -> None:
    shadow.mirror.set_trial(open_trial(differs=frozenset({1, 3})))
    shadow.hand_over([make_trial_sample(number) for number in range(5)])

    shadow.settle()

    assert shadow.stream.messages[0].topic == "everstill.m.trials"
    assert [row.agree for row in shadow.stream.trial_rows()] == [True, False, True, False, True]
    assert [from_record(pair.inputs[0])[0, 0] for pair in shadow.stream.pairs()] == shadow.teacher.asked == [1, 3]
    for pair in shadow.stream.pairs():
        assert (pair.trial.trial_id, pair.trial.candidate_version) == ("trial-1", "candidate")
        assert (pair.trial.incumbent_class, pair.trial.candidate_class) == (0, 1)
    assert shadow.ring.teacher_rows == 2


def test_each_input_counts_once_in_a_trial(shadow: Shadow) -> None:
    before = missing_rows()
    shadow.mirror.set_trial(open_trial(differs=frozenset({1})))
    shadow.hand_over([make_trial_sample(number) for number in (0, 1, 0, 1)])
    shadow.settle()
    shadow.hand_over([make_trial_sample(1)])
    shadow.settle()

    assert len(shadow.stream.trial_rows()) == 2
    assert shadow.teacher.asked == [1]
    assert missing_rows() - before == 3


def test_a_trial_row_without_budget_is_not_evaluated_at_all(shadow: Shadow) -> None:
    shadow.restart(budget_burst=1, budget_ratio=0.0)
    trial = open_trial(differs=frozenset({0, 2}))
    shadow.mirror.set_trial(trial)
    shadow.hand_over([make_trial_sample(number) for number in range(4)])

    shadow.settle()

    assert [row.agree for row in shadow.stream.trial_rows()] == [False]
    assert isinstance(trial.candidate, FakeStudent)
    assert trial.candidate.num_runs == 1


def test_trial_rows_have_the_first_call_on_the_budget(shadow: Shadow) -> None:
    shadow.restart(budget_burst=1, budget_ratio=0.0)
    shadow.mirror.set_trial(open_trial(differs=frozenset({5})))
    shadow.hand_over([*uniform(4), make_trial_sample(5)])

    shadow.settle()

    assert shadow.teacher.asked == [5]


def test_rows_of_another_trial_are_not_judged(shadow: Shadow) -> None:
    shadow.mirror.set_trial(open_trial())
    shadow.hand_over([make_sample(0, arms=(ARM_TRIAL,), trial_id="trial-0")])
    shadow.settle()
    shadow.mirror.set_trial(None)
    shadow.hand_over([make_trial_sample(1)])
    shadow.settle()

    assert shadow.stream.messages == []


def test_a_row_of_both_arms_is_asked_once_and_counts_for_both(shadow: Shadow) -> None:
    shadow.mirror.set_trial(open_trial(differs=frozenset({1})))
    shadow.hand_over([make_sample(number, arms=(ARM_UNIFORM, ARM_TRIAL), trial_id="trial-1") for number in range(2)])

    shadow.settle()

    assert sorted(shadow.teacher.asked) == [0, 1]
    assert [pair.HasField("trial") for pair in sorted(shadow.stream.pairs(), key=number_of)] == [False, True]


def test_a_disagreement_waits_for_the_teacher_and_its_row_does_not(shadow: Shadow) -> None:
    shadow.teacher.away = True
    shadow.mirror.set_trial(open_trial(differs=frozenset({1})))
    shadow.hand_over([make_trial_sample(1)])
    shadow.settle()
    assert len(shadow.stream.trial_rows()) == 1

    shadow.teacher.away = False
    shadow.mirror.set_trial(None)
    shadow.settle()

    assert [pair.trial.trial_id for pair in shadow.stream.pairs()] == ["trial-1"]


def test_the_answer_that_the_caller_got_is_the_incumbents_unless_inputs_were_redacted(shadow: Shadow) -> None:
    for whole, runs in ((True, 0), (False, 1)):
        incumbent = FakeStudent("incumbent")
        shadow.mirror.set_trial(OpenTrial("trial-1", incumbent, FakeStudent("candidate"), inputs_are_whole=whole))
        shadow.hand_over([make_trial_sample(int(whole))])

        shadow.settle()

        assert incumbent.num_runs == runs


def test_a_student_that_fails_on_a_row_does_not_stop_the_mirror(shadow: Shadow) -> None:
    class Failing(FakeStudent):
        def run(self, inputs: Mapping[str, Array]) -> Array:
            raise RuntimeError("this graph has no such input")

    shadow.mirror.set_trial(OpenTrial("trial-1", FakeStudent("incumbent"), Failing("candidate")))
    handed = shadow.hand_over([make_sample(0, arms=(ARM_UNIFORM, ARM_TRIAL), trial_id="trial-1"), *uniform(1, 1)])

    shadow.settle()

    assert sorted(ids_of(shadow)) == sorted(handed)
    assert shadow.stream.trial_rows() == []
    assert shadow.ring.teacher_rows == 2


# Reports and the end


def test_reports_carry_the_denominators(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, report_interval_s=0.0)
    shadow.restart(budget_burst=2, budget_ratio=0.0)
    shadow.worker.count_seen(95)
    shadow.hand_over(uniform(5))

    shadow.settle()

    report = records.CaptureReport.FromString(shadow.stream.of("reports")[-1].value)
    assert (report.gateway, report.teacher_calls, report.last_sequence, report.gaps) == ("gateway-1", 2, 5, 0)
    assert (report.strata[0].seen, report.strata[0].missing, report.strata[0].pending) == (100, 3, 0)


def test_a_graceful_stop_empties_the_ring(shadow: Shadow) -> None:
    handed = shadow.hand_over(uniform(150))

    assert shadow.mirror.empty(deadline_s=20.0)

    assert sorted(ids_of(shadow)) == sorted(handed)
    assert len(shadow.stream.of("reports")) == 1


def test_a_graceful_stop_that_can_place_nothing_leaves_the_ring_as_it_is(shadow: Shadow) -> None:
    shadow.stream.away = shadow.disk.full = True
    handed = shadow.hand_over(uniform(10))

    assert not shadow.mirror.empty(deadline_s=20.0)

    shadow.stream.away = shadow.disk.full = False
    shadow.restart()
    assert shadow.mirror.empty(deadline_s=20.0)
    assert sorted(ids_of(shadow)) == sorted(handed)


def test_what_found_its_place_late_leaves_the_ring_without_a_new_sample(shadow: Shadow) -> None:
    shadow.stream.away = shadow.disk.full = True
    shadow.hand_over(uniform(3))
    shadow.mirror.step()

    shadow.stream.away = shadow.disk.full = False

    assert shadow.mirror.empty(deadline_s=20.0)


# The law

TOGGLES = ["teacher away", "teacher shut", "stream", "disk"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("uniform"), st.integers(1, 12)),
        st.tuples(st.just("trial"), st.integers(1, 6)),
        st.tuples(st.sampled_from([*TOGGLES, "step", "kill"]), st.just(0)),
    ),
    max_size=30,
)


class Story:
    """A mirror that lives through what hypothesis thinks of."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.shadow = Shadow(folder, spool_bytes=2**22)
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
        else:
            part, attribute = {
                "teacher away": (shadow.teacher, "away"),
                "teacher shut": (shadow.teacher, "shut"),
                "stream": (shadow.stream, "away"),
                "disk": (shadow.disk, "full"),
            }[name]
            setattr(part, attribute, not getattr(part, attribute))
        assert len(shadow.teacher.asked) <= shadow.ring.teacher_rows <= 30 + 0.5 * shadow.ring.rows_seen

    def heal(self) -> None:
        """Let everything be there again, and the budget last."""
        shadow = self.shadow
        shadow.teacher.away = shadow.teacher.shut = shadow.stream.away = shadow.disk.full = False
        shadow.worker.count_seen(10_000)
        shadow.settle()


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_every_row_is_published_or_missing_whatever_happened(steps: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        before = missing_rows()
        story = Story(pathlib.Path(folder))

        for name, num in steps:
            story.live(name, num)
        story.heal()

        shadow, stream = story.shadow, story.shadow.stream
        published = {pair.record_id for pair in stream.pairs()} | {row.record_id for row in stream.trial_rows()}
        num_missing = missing_rows() - before
        assert published <= set(story.handed)
        assert len(story.handed) - len(published) <= num_missing
        if ("kill", 0) not in steps:
            assert len(story.handed) - len(published) == num_missing
        if not {("kill", 0), ("disk", 0)} & set(steps):
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
        if message.topic.endswith(".trials"):
            rows |= {row.record_id for row in records.TrialBatch.FromString(message.value).rows}
        elif message.topic.endswith(".pairs"):
            pairs = records.PairBatch.FromString(message.value).pairs
            early |= {pair.record_id for pair in pairs if pair.HasField("trial") and pair.record_id not in rows}
    return early


def number_of(pair: records.LogitPair) -> int:
    return int(from_record(pair.inputs[0])[0, 0])
