"""Capture reports in the loop: the newest of each source counts, over restarts of it and of the loop, and the accounts close."""

import contextlib
import pathlib

from hypothesis import given
from hypothesis import strategies as st

from distill_loop.progress import Progress
from distill_loop.stream.reports import MAX_SOURCES, Reports
from distill_loop.telling import accounts_of
from protos import records_pb2 as records
from protos.topics import PAIRS
from serving.shadow.accounts import Accounts, Rows
from serving.shadow.reports import reports_of
from serving.shadow.ring import Ring, create
from serving.shadow.rings import Rings


def make_report(
    *,
    gateway: str = "g",
    worker: int = 0,
    epoch: int = 1,
    time: int = 0,
    seen: int = 0,
    accepted: int = 0,
    pending: int = 0,
    sampled: int = 0,
    mirror: bool = False,
) -> records.CaptureReport:
    mirror = mirror or accepted > 0
    report = records.CaptureReport(gateway=gateway, worker=worker, epoch=epoch, time_unix_ns=time, mirror=mirror)
    stratum = report.strata.add(stratum="all", seen=seen, pending=pending, confidence_sum=seen / 2, sampled=sampled)
    stratum.arms.add(arm="uniform", taken=seen // 2)
    report.topics.add(kind=PAIRS, messages=accepted, records=2 * accepted)
    return report


def test_a_report_replaces_the_one_before_it() -> None:
    reports = Reports()
    for seen in (10, 20, 30):
        reports.take(make_report(seen=seen, pending=seen // 10, time=seen))
        reports.take(make_report(pending=seen // 10, time=seen, mirror=True))
    reports.take(make_report(seen=20, time=20))  # a spool gave it again

    assert reports.strata()["all"]["seen"] == 30
    assert reports.strata()["all"]["pending"] == 3
    assert reports.strata()["all"]["arms"] == {"uniform": 15}
    assert reports.strata()["all"]["mean_confidence"] == 0.5


def test_workers_and_mirrors_of_several_gateways_add_up() -> None:
    reports = Reports()
    for gateway in "ab":
        for worker in range(2):
            reports.take(make_report(gateway=gateway, worker=worker, seen=10, sampled=4))
        reports.take(make_report(gateway=gateway, accepted=3, sampled=8))

    assert reports.strata()["all"]["seen"] == 40
    assert reports.strata()["all"]["sampled"] == 16  # a mirror tells all that its workers sampled
    assert reports.accepted() == {PAIRS: 12}


def test_a_source_that_begins_again_keeps_what_it_had_counted_and_nothing_of_what_waited() -> None:
    reports = Reports()
    reports.take(make_report(epoch=1, sampled=10, pending=4, mirror=True))
    reports.take(make_report(epoch=2, sampled=5, pending=1, mirror=True))
    reports.take(make_report(epoch=1, sampled=11, pending=4, mirror=True))  # late

    assert (reports.strata()["all"]["sampled"], reports.strata()["all"]["pending"]) == (15, 1)


def test_the_teacher_is_away_while_the_newest_report_of_a_mirror_that_speaks_says_so() -> None:
    reports, second = Reports(), 1_000_000_000

    def report(gateway: str, time_s: int, end_s: int | None = None) -> None:
        told = make_report(gateway=gateway, time=time_s * second, mirror=True)
        if end_s is not None:
            told.breaker_open.add(start_unix_ns=second, end_unix_ns=end_s * second)
        reports.take(told)

    report("g", 2, end_s=0)
    assert reports.teacher_away
    report("g", 3, end_s=3)
    assert not reports.teacher_away
    report("other", 4, end_s=0)
    assert reports.teacher_away
    report("g", 65)  # the other one has fallen silent
    assert not reports.teacher_away


def test_very_many_sources_are_summed_up() -> None:
    reports = Reports()
    for number in range(MAX_SOURCES + 5):
        reports.take(make_report(gateway=f"g-{number}", seen=2))

    assert reports.strata()["all"]["seen"] == 2 * (MAX_SOURCES + 5)
    assert len(reports.state_dict()["newest"]) == MAX_SOURCES


def test_a_source_that_was_summed_up_and_speaks_again_is_counted_once() -> None:
    reports = Reports()
    for turn in range(1, 3):
        for number in range(MAX_SOURCES + 5):
            reports.take(make_report(gateway=f"g-{number}", seen=2 * turn, sampled=2 * turn, mirror=True, time=turn))
            if number % 500 == 0:
                told, reports = reports.state_dict(), Reports()
                reports.load_state_dict(told)
        reports.take(make_report(gateway="g-1", sampled=1))  # late
        assert reports.strata()["all"]["sampled"] == 2 * turn * (MAX_SOURCES + 5)


def test_a_ring_of_another_size_or_in_a_damaged_ones_place_goes_on_in_the_same_report(tmp_path: pathlib.Path) -> None:
    reports, path = Reports(), tmp_path / "ring-0.mmap"
    for turn, size in enumerate((2**16, 2**17, 2**18, 2**18)):
        if turn == 3:
            with path.open("r+b") as file:
                file.write(b"EVILRING")
        create(path, size)
        with contextlib.closing(Ring(path)) as ring:
            ring.count_seen(10, "served", 5.0)
            accounts = Accounts("m")
            accounts.follow(0, ring)
            (report, _) = reports_of("g", Rings({0: ring}), accounts, Rows())
        reports.take(records.CaptureReport.FromString(report.value))

    assert len(list(tmp_path.glob("*damaged*"))) == 1
    assert reports.strata()["served"]["seen"] == 40


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.integers(1, 3), st.integers(0, 9)), max_size=20),
    st.data(),
)
def test_a_restart_in_between_changes_no_count(told: list[tuple[str, int, int, int]], data: st.DataObject) -> None:
    split = data.draw(st.integers(0, len(told)))
    straight, first, second = Reports(), Reports(), Reports()
    sent = [
        make_report(gateway=gateway, worker=worker, epoch=epoch, seen=seen) for gateway, worker, epoch, seen in told
    ]
    for report in sent:
        straight.take(report)

    for report in sent[:split]:
        first.take(report)
    second.load_state_dict(first.state_dict())
    for report in sent[split:]:
        second.take(report)

    assert second.strata() == straight.strata()
    assert second.accepted() == straight.accepted()


def test_the_accounts_say_what_is_open() -> None:
    reports, progress = Reports(), Progress(read=17, learned=9, held_out=1, repeats=2, dead=3, refused=2, replayed=1)
    assert accounts_of(progress, reports)["open"] is None

    reports.take(make_report(accepted=10))

    told = accounts_of(progress, reports)
    assert (told["accepted"], told["open"], told["unconfirmed"]) == (20, 4, 0)

    progress.read += 7  # of which a mirror that was killed never heard
    told = accounts_of(progress, reports)
    assert (told["accepted"], told["open"], told["unconfirmed"]) == (20, 0, 3)
    assert told["accepted"] + told["replayed"] + told["unconfirmed"] == told["read"] + told["open"]


def test_a_checkpoint_of_the_version_before_has_taken_what_it_has_read() -> None:
    state, progress = Progress(read=17).state_dict(), Progress()
    del state["taken"]

    progress.load_state_dict(state)

    assert (progress.taken, progress.read) == (17, 17)
