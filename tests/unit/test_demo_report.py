"""The demo's report: the keys that scripts rely on, and a summary that says no more than the figures do."""

import json
from typing import Any

import pytest

from everstill.demo import report
from everstill.demo.score import TEACHER_VERSION, Scores, Sent
from everstill.demo.topics import Stream
from everstill.demo.watch import View
from everstill.recipes import find
from registry.ledger import Line

FIRST, SECOND = "a" * 64, "b" * 64
RECIPE = find("filetypes")
TRIAL = {
    "trial_id": "t-e", "candidate": "e" * 12, "incumbent": "a" * 12, "share": 0.5, "wins": 9, "losses": 4, "pending": 1, "total": 120,
    "log_e": 0.4, "requests_needed": 1500,
}  # fmt: skip
EVIDENCE = {"verdict": "PASS", "log_e": 5.1, "alpha": 0.01, "wins": 16, "losses": 1, "total": 30}


def line(number: int, kind: str, digest: str, evidence: dict[str, Any]) -> Line:
    return Line(
        number=number,
        kind=kind,  # type: ignore[arg-type]
        trial_id=f"t{number}",
        digest=digest,
        previous_digest=None,
        evidence=evidence,
        rows_digest=None,
        time_unix_s=0.0,
        actor="loop",
        previous_hash="",
    )


LEDGER = [
    line(1, "bootstrap", FIRST, {"pairs": 96}),
    line(2, "reject", "c" * 64, {**EVIDENCE, "log_e": -4.0}),
    line(3, "inconclusive", "d" * 64, {**EVIDENCE, "log_e": 1.0}),
    line(4, "promote", SECOND, EVIDENCE),
]


def answers(*, failed_at: float | None = None) -> list[Sent]:
    """Return 400 answers: the teacher's up to 40, the first version's up to 300, then the second's, which alone is right."""
    versions = [TEACHER_VERSION] * 40 + [FIRST[:12]] * 260 + [SECOND[:12]] * 100
    tops = [1 if version != FIRST[:12] else 0 for version in versions]
    sent = [Sent(index, float(index), versions[index], tops[index], 0.002) for index in range(400)]
    return [Sent(one.index, one.time_s, "", -1, 0.1, "UNAVAILABLE") if one.time_s == failed_at else one for one in sent]


def build(
    sent: list[Sent],
    *,
    lines: list[Line] = LEDGER,
    frozen: int = 0,
    dropped: int = 0,
    trial: dict[str, Any] | None = None,
    waited_s: float = 0.0,
) -> dict[str, Any]:
    view = View(loop={"pairs": {"read": 80}, "trial": trial}, lines=lines, teacher_calls=80, dropped=dropped)
    scores = Scores([1] * 400, [-1] * 200 + [frozen] * 200, [0.01] * 400)
    return report.build(
        sent,
        scores,
        (200, 300),
        view,
        recipe=RECIPE,
        stream=Stream(),
        requests_per_s=24.0,
        waited_s=waited_s,
        trial_opened_at={TRIAL["trial_id"]: 350},
        frozen_version=FIRST[:12],
        wall_s=25.0,
    )


def test_the_report_holds_what_scripts_rely_on() -> None:
    body = build(answers())

    assert body["requests"] == 400
    assert body["failed_requests"] == 0
    assert body["teacher_calls"] == 80
    assert body["teacher_calls_ratio"] == 0.2
    assert (body["promotions"], body["rejections"]) == (1, 1)
    assert set(body["agreement"]) == {
        "start", "before_drift", "after_drift", "after", "frozen_after", "end", "frozen_end",
    }  # fmt: skip
    assert all({"estimate", "low", "high"} <= part.keys() for part in body["agreement"].values())
    assert set(body["latency_ms"]) == {"student_p50", "student_p99", "teacher_p50", "teacher_p99"}
    assert body["swap"] == {"count": 1, "failed_requests": 0}
    assert json.loads(json.dumps(body, allow_nan=False)) == body


def test_each_version_carries_its_evidence_and_its_first_request() -> None:
    first, second = build(answers())["versions"]

    assert (first["version"], first["kind"], first["first_request"]) == (FIRST[:12], "bootstrap", 40)
    assert (second["version"], second["kind"], second["first_request"]) == (SECOND[:12], "promote", 300)
    assert second["evidence"] == EVIDENCE


@pytest.mark.parametrize(("time_s", "near"), [(300.5, 0), (301.0, 1), (250.0, 0)])
def test_only_a_failure_near_a_swap_is_put_down_to_it(time_s: float, near: int) -> None:
    body = build(answers(failed_at=time_s))

    assert body["swap"]["failed_requests"] == near


def test_a_version_that_answered_nothing_has_no_first_request() -> None:
    body = build([one for one in answers() if one.version != SECOND[:12]])

    assert body["versions"][1]["first_request"] is None
    assert body["swap"]["count"] == 0


def test_the_summary_gives_intervals_and_names_the_calls_that_are_not_counted() -> None:
    text = report.summarise(build(answers()), RECIPE)

    assert "400 requests were sent, 0 failed" in text
    assert "promoted 1 candidate, rejected 1 and found 1 inconclusive" in text
    assert "100.0% [96.3%, 100.0%]" in text
    assert "those 400 calls are not counted" in text
    assert "intervals overlap" not in text


def test_the_summary_says_when_learning_gained_nothing() -> None:
    assert "can't be told apart" in report.summarise(build(answers(), frozen=1), RECIPE)


def test_the_summary_says_when_learning_did_harm() -> None:
    worse = [Sent(one.index, one.time_s, one.version, 0, one.latency_s) for one in answers()]

    assert "the frozen student was better" in report.summarise(build(worse, frozen=1), RECIPE)


def test_the_summary_says_when_no_student_ever_served() -> None:
    sent = [Sent(index, float(index), TEACHER_VERSION, 1, 0.01) for index in range(400)]

    text = report.summarise(build(sent, lines=[]), RECIPE)

    assert "No student took over" in text
    assert "took over at request" not in text


def test_the_summary_names_dropped_samples() -> None:
    assert "3 samples had to be dropped" in report.summarise(build(answers(), dropped=3), RECIPE)


def test_a_trial_that_was_open_at_the_end_is_in_the_report_and_in_the_summary() -> None:
    body = build(answers(), lines=LEDGER[:1], trial=TRIAL)
    text = report.summarise(body, RECIPE)

    assert body["open_trial"] == {name: value for name, value in TRIAL.items() if name != "share"} | {
        "first_request": 350
    }
    assert "There was no promotion" in text
    assert (
        "A trial was still open: 9 wins and 4 losses in 120 trial requests, and at these rates it would take 1,500"
        in text
    )
    assert "A gated swap usually takes about 1,500 requests" in text


def test_without_a_promotion_the_two_students_are_said_to_be_one() -> None:
    sent = [Sent(index, float(index), FIRST[:12], 1, 0.002) for index in range(400)]

    text = report.summarise(build(sent, lines=LEDGER[:1], frozen=1), RECIPE)

    assert "the two are one and the same student" in text
    assert "overlap" not in text


def test_a_client_that_waited_for_the_loop_says_so() -> None:
    assert "the client waited 12 s" in report.summarise(build(answers(), waited_s=12.3), RECIPE)
    assert "waited" not in report.summarise(build(answers()), RECIPE)
