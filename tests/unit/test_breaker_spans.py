"""Spans in which the teacher's breaker was open: each is told in order until the stream has it, and the loop counts its time once."""

import pathlib

from hypothesis import given
from hypothesis import strategies as st

from distill_loop.stream.breakers import MAX_GATEWAYS, Breakers
from distill_loop.stream.reports import Reports
from protos import records_pb2 as records
from serving.shadow.spans import MAX_SPANS, OpenSpans, Span
from tests.support.shadow import Shadow, uniform

SECOND = 1_000_000_000


def told(shadow: Shadow) -> list[Span]:
    """Return the spans of the newest report on the stream."""
    report = records.CaptureReport.FromString(shadow.stream.of("reports")[-1].value)
    return [(span.start_unix_ns, span.end_unix_ns) for span in report.breaker_open]


def test_spans_wait_for_a_report_that_the_stream_takes_and_are_told_once(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path, report_interval_s=0.0)
    shadow.teacher.breaker_spans = [(10, 20), (30, 0)]
    shadow.stream.away = True
    shadow.mirror.step()
    shadow.teacher.breaker_spans = [(10, 20), (30, 40), (50, 0)]
    shadow.mirror.step()
    assert shadow.stream.of("reports") == []

    shadow.stream.away = False
    shadow.mirror.step()
    assert told(shadow) == [(10, 20), (30, 40), (50, 0)]
    shadow.mirror.step()
    assert told(shadow) == [(50, 0)]
    shadow.teacher.breaker_spans = [(10, 20), (30, 40), (50, 60)]
    shadow.mirror.step()
    assert told(shadow) == [(50, 60)]
    shadow.mirror.step()
    assert told(shadow) == []


def test_spans_outlive_a_mirror_that_is_killed_and_one_that_lasted_ends_with_it(tmp_path: pathlib.Path) -> None:
    shadow = Shadow(tmp_path)
    shadow.teacher.breaker_spans = [(10, 20), (30, 0)]
    shadow.hand_over(uniform(1))
    shadow.settle()

    shadow.restart()
    shadow.teacher.breaker_spans = []

    first, second = ((span.start_unix_ns, span.end_unix_ns) for span in shadow.mirror_report().breaker_open)
    assert (first, second[0]) == ((10, 20), 30)
    assert second[1] > 30


def test_of_very_many_spans_those_that_lie_closest_become_one() -> None:
    spans = OpenSpans()
    spans.note([(100 * number, 100 * number + 10) for number in range(1, MAX_SPANS)])
    spans.note([(99_000, 99_010), (99_011, 99_020), (100_000, 0)])

    shown = spans.to_json()
    assert len(shown) == MAX_SPANS
    assert shown[-2:] == [(99_000, 99_020), (100_000, 0)]
    spans.note([(99_000, 99_010), (99_011, 99_020), (100_000, 100_001)])
    assert spans.to_json()[-2:] == [(99_000, 99_020), (100_000, 100_001)]


def report(time: int, *spans: Span, gateway: str = "g", epoch: int = 1) -> records.CaptureReport:
    made = records.CaptureReport(gateway=gateway, mirror=True, epoch=epoch, time_unix_ns=time * SECOND)
    for start, end in spans:
        made.breaker_open.add(start_unix_ns=start * SECOND, end_unix_ns=end * SECOND)
    return made


def test_the_loop_counts_time_once_whatever_is_told_again() -> None:
    reports = Reports()
    for one in (
        report(15, (10, 0)),
        report(15, (10, 0)),  # it arrived, and the mirror didn't know
        report(25, (10, 18), (20, 0)),
        report(15, (10, 0)),  # late
        report(50, (10, 18), (20, 30), (40, 45)),
        report(12, (3, 9), gateway="another"),
    ):
        reports.take(one)
        kept, reports = reports.state_dict(), Reports()
        reports.load_state_dict(kept)

    assert reports.breakers.open_s == 8 + 10 + 5 + 6
    assert reports.breakers.open_now == []
    reports.take(report(60, (58, 0)))
    assert (reports.breakers.open_s, reports.breakers.open_now) == (31, ["g"])


def test_very_many_gateways_are_forgotten_and_their_time_is_not() -> None:
    breakers = Breakers()
    for number in range(MAX_GATEWAYS + 5):
        breakers.take(report(3, (1, 0), gateway=f"g-{number}"))

    assert breakers.open_s == 2 * (MAX_GATEWAYS + 5)
    assert len(breakers.open_now) == MAX_GATEWAYS


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12), st.data())
def test_reports_that_are_lost_or_sent_twice_change_no_sum(steps: list[tuple[int, int]], data: st.DataObject) -> None:
    spans, breakers, now, known = OpenSpans(), Breakers(), 0, []
    for closed, opened in steps:
        start, now = now + closed, now + closed + opened
        for end, time in ((0, start), (now, now)):
            known = [*(one for one in known if one[0] != start), (start, end)]
            spans.note(known)
            sent = report(time, *spans.to_json())
            fate = data.draw(st.sampled_from(["lost", "taken", "taken and not known"]))
            if fate != "lost":
                breakers.take(sent)
            if fate == "taken":
                spans.taken()

    breakers.take(report(now, *spans.to_json()))

    assert breakers.open_s == sum(opened for _, opened in steps)
