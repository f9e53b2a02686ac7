"""The mirror's accounts: every row once, by stratum, whatever the disk, the key or a version before does to rings and spools."""

import pathlib
import shutil
import struct

import pytest

from protos import records_pb2 as records
from registry.at_rest import AtRest
from serving.shadow.ring import COUNTED_FROM, WRITTEN
from serving.shadow.strata import ROW_BYTES, TABLE
from tests.support.shadow import Crashed, Shadow, ids_of, make_sample, open_rows, uniform

pytestmark = pytest.mark.usefixtures("no_sync")

KEY = bytes(range(32))


def rows(shadow: Shadow, name: str) -> int:
    """Return one count of the mirror's report, over all strata; the equation must close."""
    report = shadow.mirror_report()
    assert open_rows(report) == {}
    return sum(getattr(one, name) for one in report.strata)


def mixed(num: int) -> list[records.Sample]:
    """Return samples of two strata."""
    samples = uniform(num)
    for sample in samples[::3]:
        sample.stratum = "pass_through"
    return samples


def test_strata_are_counted_apart(shadow: Shadow) -> None:
    shadow.hand_over(mixed(9))
    shadow.settle()

    told = {one.stratum: (one.sampled, one.published) for one in shadow.mirror_report().strata}

    assert told == {"served": (6, 6), "pass_through": (3, 3)}


def test_a_step_that_was_killed_after_its_commit_is_placed_again_and_asks_nobody(shadow: Shadow) -> None:
    handed = shadow.hand_over(uniform(5))
    shadow.fuse.left = 4  # commit, before and after; publish, before and after
    with pytest.raises(Crashed):
        shadow.mirror.step()
    assert sorted(ids_of(shadow)) == sorted(handed)

    shadow.teacher.asked.clear()
    shadow.restart()
    assert rows(shadow, "pending") == 5
    shadow.settle()

    assert shadow.teacher.asked == []
    assert sorted(ids_of(shadow)) == sorted([*handed, *handed])  # the stream has them twice, under the same ids
    assert rows(shadow, "published") == 5
    assert shadow.ring.pending_bytes == 0


def test_what_was_appended_to_a_spool_before_a_kill_is_in_it_once(shadow: Shadow) -> None:
    shadow.stream.away = True
    shadow.hand_over(uniform(5))
    shadow.fuse.left = 5  # commit twice, publish twice, and the spool's append
    with pytest.raises(Crashed):
        shadow.mirror.step()

    shadow.restart()
    shadow.settle()
    assert rows(shadow, "spooled") == 5
    shadow.stream.away = False
    shadow.settle()

    assert len(ids_of(shadow)) == len(set(ids_of(shadow))) == rows(shadow, "published") == 5


def test_hours_without_a_link_are_kept_and_sent_in_order_when_it_is_back(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, report_interval_s=0.0)
    shadow.stream.away = True
    handed = []
    for hour in range(8):
        handed += shadow.hand_over([make_sample(0) for _ in range(50)])
        shadow.settle()
        if hour % 3 == 0:
            shadow.restart()
        assert rows(shadow, "spooled") == len(handed)
    assert shadow.stream.messages == []

    shadow.stream.away = False
    handed += shadow.hand_over([make_sample(0)])
    shadow.settle()

    assert ids_of(shadow) == handed
    assert rows(shadow, "published") == len(handed)
    assert not list((tmp_path / "stream").glob("*.seg"))


def test_a_stream_that_takes_some_gets_the_rest_later_in_order(shadow: Shadow) -> None:
    shadow.stream.partly = True
    handed = []
    for _ in range(6):
        handed += shadow.hand_over([make_sample(0) for _ in range(4)])
        shadow.mirror.step()

    shadow.stream.partly = False
    shadow.settle()

    assert list(dict.fromkeys(ids_of(shadow))) == handed
    assert rows(shadow, "published") == len(handed)


def test_rows_that_fall_out_of_a_full_spool_are_dropped_by_stratum(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, spool_bytes=2**14)
    shadow.teacher.away = True
    for _ in range(20):
        shadow.hand_over(mixed(30))
        shadow.settle()
        assert rows(shadow, "spooled") + rows(shadow, "dropped") == rows(shadow, "sampled")

    dropped = {one.stratum: one.dropped for one in shadow.mirror_report().strata}
    assert dropped["served"] > dropped["pass_through"] > 0

    shadow.teacher.away = False
    shadow.settle()
    assert rows(shadow, "published") == len(ids_of(shadow)) == rows(shadow, "sampled") - rows(shadow, "dropped")


def test_what_waits_too_long_is_dropped_though_nothing_drains(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, report_interval_s=0.0)
    shadow.teacher.away = True
    shadow.hand_over(mixed(6))
    shadow.settle()

    shadow.waiting_teacher._retention_s = -1.0
    shadow.mirror.step()

    assert rows(shadow, "dropped") == 6
    assert shadow.waiting_teacher.is_empty


def test_a_full_disk_stops_reading_and_loses_nothing_also_over_a_kill(shadow: Shadow) -> None:
    shadow.stream.away = shadow.disk.full = True
    handed = shadow.hand_over(uniform(200))
    assert [shadow.mirror.step() for _ in range(3)] == [0, 0, 0]
    assert rows(shadow, "pending") == 200

    shadow.restart()
    assert shadow.mirror.step() == 0
    assert rows(shadow, "pending") == 200
    shadow.stream.away = shadow.disk.full = False
    shadow.settle()

    assert sorted(ids_of(shadow)) == sorted(handed)
    assert rows(shadow, "published") == 200


def test_feedback_goes_to_the_labels_topic_and_is_no_row(shadow: Shadow) -> None:
    label = records.Label(record_id=bytes(16), label="cat", label_class=1, known=True)
    shadow.hand_over(uniform(2))
    for _ in range(3):
        assert shadow.worker.append(records.Sample(label=label).SerializeToString(), feedback=True)
    shadow.stream.away = True
    shadow.settle()
    assert rows(shadow, "spooled") == 2

    shadow.restart()
    shadow.stream.away = False
    shadow.settle()

    (message,) = shadow.stream.of("labels")
    assert list(records.LabelBatch.FromString(message.value).labels) == [label] * 3
    assert (rows(shadow, "sampled"), rows(shadow, "published")) == (2, 2)
    assert {one.kind: one.records for one in shadow.mirror_report().topics}["labels"] == 3


def test_a_pair_that_is_larger_than_a_message_may_be_is_dropped_and_the_others_are_not(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, max_message_bytes=4096)
    handed = shadow.hand_over(uniform(20))
    shadow.hand_over([make_sample(30, width=2000)])

    shadow.settle()

    assert sorted(ids_of(shadow)) == sorted(handed)
    assert (rows(shadow, "published"), rows(shadow, "dropped")) == (20, 1)
    assert all(len(message.value) <= 4096 for message in shadow.stream.messages)


def test_with_a_key_no_input_lies_readable_in_spool_or_journal(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, at_rest=AtRest(KEY))
    needle = struct.pack("<4i", *[0x5EC2E7] * 4)
    shadow.stream.away = shadow.teacher.away = True
    handed = shadow.hand_over([make_sample(0x5EC2E7), *uniform(3)])
    shadow.settle()
    shadow.teacher.away = False
    shadow.settle()

    kept = [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith("ring")]
    assert len(kept) >= 3
    assert not any(needle in path.read_bytes() for path in kept)
    shadow.restart()
    shadow.stream.away = False
    shadow.settle()
    assert sorted(ids_of(shadow)) == sorted(handed)


def test_a_spool_without_its_journal_and_its_key_waits_and_is_counted_in_the_end(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, at_rest=AtRest(KEY))
    shadow.teacher.away = True
    handed = shadow.hand_over(uniform(5))
    shadow.settle()
    for path in tmp_path.glob("journal-*"):
        path.unlink()
    shadow.restart(at_rest=AtRest(bytes(32)))
    shadow.teacher.away = False
    later = shadow.hand_over(uniform(2))
    shadow.settle()
    assert sorted(ids_of(shadow)) == sorted(later)

    shadow.restart(at_rest=AtRest(bytes(32), KEY))
    shadow.settle()

    assert sorted(ids_of(shadow)) == sorted(handed + later)
    assert (rows(shadow, "sampled"), rows(shadow, "published"), rows(shadow, "spooled")) == (7, 7, 0)


def test_a_spool_whose_key_is_missing_does_not_hold_up_the_other(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, at_rest=AtRest(KEY))
    shadow.stream.away = True
    shadow.hand_over(uniform(2))
    shadow.settle()
    shadow.restart(at_rest=AtRest(bytes(32)))
    shadow.stream.away, shadow.teacher.away = False, True
    shadow.hand_over(uniform(3))
    shadow.settle()
    shadow.teacher.away = False
    shadow.settle()

    assert shadow.waiting_teacher.is_empty
    assert (rows(shadow, "sampled"), rows(shadow, "spooled")) == (5, 5)


def test_a_frame_that_never_came_is_a_gap_in_its_stratum(shadow: Shadow, tmp_path: pathlib.Path) -> None:
    shadow.hand_over([make_sample(0)])
    written = (tmp_path / "ring").read_bytes()[WRITTEN : WRITTEN + 8]
    lost = make_sample(1)
    lost.stratum = "pass_through"
    shadow.worker.append(lost.SerializeToString(), stratum=lost.stratum)
    with (tmp_path / "ring").open("r+b") as file:
        file.seek(WRITTEN)
        file.write(written)
    assert rows(shadow, "sampled") == 2

    shadow.hand_over([make_sample(2)])
    shadow.settle()

    assert {one.stratum: one.gaps for one in shadow.mirror_report().strata} == {"served": 0, "pass_through": 1}
    assert (rows(shadow, "published"), rows(shadow, "pending")) == (2, 0)


def test_a_version_before_leaves_rings_and_spools_that_are_gone_on_with(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path)
    handed = shadow.hand_over(mixed(6))
    shadow.settle()
    shadow.teacher.away = True
    handed += shadow.hand_over(mixed(3))
    shadow.settle()
    handed += shadow.hand_over(mixed(3))
    for name in ("journal-0", "journal-1"):
        (tmp_path / name).unlink()
    with (tmp_path / "ring").open("r+b") as file:  # no counts by stratum in its header
        file.seek(TABLE)
        file.write(bytes(16 * ROW_BYTES))
        file.seek(COUNTED_FROM)
        file.write(bytes(8))

    shadow.restart()
    assert (rows(shadow, "spooled"), rows(shadow, "pending"), rows(shadow, "sampled")) == (3, 3, 6)
    shadow.workers[0] = shadow.worker = type(shadow.worker)(tmp_path / "ring")  # a worker of this version
    handed += shadow.hand_over(mixed(6))
    shadow.teacher.away = False
    shadow.settle()

    assert sorted(ids_of(shadow)) == sorted(handed)
    assert (rows(shadow, "published"), rows(shadow, "sampled")) == (12, 12)
    assert shadow.worker.counts()["served"].handed == 4


def test_without_the_journal_the_accounts_begin_anew_and_close(shadow: Shadow, tmp_path: pathlib.Path) -> None:
    shadow.hand_over(mixed(6))
    shadow.settle()
    before = shadow.mirror_report().epoch
    handed = shadow.hand_over(mixed(6))
    for name in ("journal-0", "journal-1"):
        (tmp_path / name).write_bytes(b"EVJRNL01, and then nothing that holds together")

    shadow.restart()
    shadow.settle()

    assert shadow.mirror_report().epoch > before
    assert (rows(shadow, "published"), rows(shadow, "sampled")) == (6, 6)
    assert sorted(ids_of(shadow)[-6:]) == sorted(handed)


def test_a_spool_that_lost_its_disk_is_dropped_and_counted(shadow: Shadow, tmp_path: pathlib.Path) -> None:
    shadow.teacher.away = True
    shadow.hand_over(mixed(6))
    shadow.settle()
    shutil.rmtree(tmp_path / "teacher")

    shadow.restart()
    shadow.teacher.away = False
    shadow.settle()

    assert (rows(shadow, "dropped"), rows(shadow, "spooled")) == (6, 0)


def test_a_ring_that_was_damaged_leaves_a_gap(shadow: Shadow, tmp_path: pathlib.Path) -> None:
    from serving.shadow import ring

    shadow.hand_over(mixed(6))
    with (tmp_path / "ring").open("r+b") as file:
        file.write(b"EVILRING")
    ring.create(tmp_path / "ring", 2**18)
    shadow.workers[0] = shadow.worker = ring.Ring(tmp_path / "ring")

    shadow.restart()
    handed = shadow.hand_over(mixed(3))
    shadow.settle()

    assert sorted(ids_of(shadow)) == sorted(handed)
    assert (rows(shadow, "sampled"), rows(shadow, "published"), rows(shadow, "gaps")) == (9, 3, 6)


def test_a_ring_that_was_removed_keeps_its_place_in_the_accounts(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, num_workers=2)
    shadow.hand_over(mixed(10))
    shadow.settle()

    shadow.remove_last_worker()

    assert (rows(shadow, "sampled"), rows(shadow, "published"), rows(shadow, "pending")) == (10, 10, 0)
