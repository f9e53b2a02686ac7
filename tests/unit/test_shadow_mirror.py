"""The mirror: whatever is away or full, a sampled row is published, counted as missing, or still waits."""

import pathlib

import numpy as np
import pytest

from protos import records_pb2 as records
from protos.records import ARM_PASS_THROUGH
from protos.tensors import from_record, to_record
from serving.shadow.ring import HEADER_BYTES
from serving.telemetry import PUBLISHED
from tests.support.shadow import NUM_CLASSES, Shadow, ids_of, make_sample, missing_rows, uniform

GOLDEN = pathlib.Path(__file__).parents[1] / "contract" / "golden" / "sample.v1.bin"

pytestmark = pytest.mark.usefixtures("no_sync")


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
    before = PUBLISHED.labels("pairs", "m")._value.get()
    shadow.stream.away = True
    shadow.hand_over(uniform(5))
    shadow.settle()
    assert PUBLISHED.labels("pairs", "m")._value.get() == before

    shadow.stream.away = False
    shadow.settle()

    assert PUBLISHED.labels("pairs", "m")._value.get() - before == 5


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


@pytest.mark.parametrize("part", ["stream", "teacher"])
def test_a_disk_full_of_what_waits_is_emptied_when_that_is_taken_again(shadow: Shadow, part: str) -> None:
    away = getattr(shadow, part)
    away.away = True
    handed = shadow.hand_over(uniform(64))
    shadow.settle()
    shadow.disk.room_bytes = shadow.waiting_stream.num_bytes + shadow.waiting_teacher.num_bytes
    handed += shadow.hand_over(uniform(64, first=64))
    assert [shadow.mirror.step() for _ in range(3)] == [0, 0, 0]

    away.away = False
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

    stratum, _ = shadow.mirror_report().strata
    assert stratum.dropped > 0
    assert len(ids_of(shadow)) + stratum.dropped == len(handed) == stratum.sampled


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


# Reports and the end


def test_reports_carry_the_denominators(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, report_interval_s=0.0)
    shadow.restart(budget_burst=2, budget_ratio=0.0)
    shadow.worker.count_seen(95)
    shadow.hand_over(uniform(5))

    shadow.settle()

    worker, mirror = (records.CaptureReport.FromString(one.value) for one in shadow.stream.of("reports")[-2:])
    assert (worker.gateway, worker.teacher_calls, worker.last_sequence, worker.gaps) == ("gateway-1", 2, 5, 0)
    assert not worker.mirror
    assert mirror.mirror
    served = worker.strata[0]
    assert (served.stratum, served.seen, served.sampled, served.pending) == ("served", 100, 5, 0)
    served = mirror.strata[0]
    assert (served.stratum, served.sampled, served.published, served.missing) == ("served", 5, 2, 3)
    assert [(one.kind, one.messages, one.records) for one in mirror.topics if one.kind == "pairs"] == [
        ("pairs", len(shadow.stream.of("pairs")), 2)
    ]


def test_each_worker_has_a_report_of_its_own_and_their_sums_are_right(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, num_workers=2, report_interval_s=0.0)
    shadow.restart(budget_burst=2, budget_ratio=0.0)
    shadow.hand_over(uniform(5))

    shadow.settle()

    *reports, mirror = [records.CaptureReport.FromString(one.value) for one in shadow.stream.of("reports")[-3:]]
    assert [report.worker for report in reports] == [0, 1]
    assert [report.strata[0].seen for report in reports] == [3, 2]
    assert [report.strata[0].sampled for report in reports] == [3, 2]
    assert sum(report.teacher_calls for report in reports) == 2
    assert (mirror.strata[0].seen, mirror.strata[0].sampled, mirror.strata[0].missing) == (0, 5, 3)


def test_a_graceful_stop_empties_the_ring(shadow: Shadow) -> None:
    handed = shadow.hand_over(uniform(150))

    assert shadow.mirror.empty(deadline_s=20.0)

    assert sorted(ids_of(shadow)) == sorted(handed)
    assert len(shadow.stream.of("reports")) == 2


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
