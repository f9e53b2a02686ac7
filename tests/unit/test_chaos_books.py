"""The books of the chaos rig must see what they are there to see: each kind of loss, repeat and lie."""

import dataclasses

import numpy as np
import pytest

from benchmarks.chaos import labels, trials
from benchmarks.chaos.books import Books, Shadow, shadow_of
from benchmarks.chaos.callers import RECORD, Records
from benchmarks.chaos.cases import latencies, rates_per_s
from benchmarks.chaos.labels import LabelBooks
from benchmarks.chaos.trials import TrialBooks, TrialRow
from protos import records_pb2 as records
from protos.tensors import to_record

IDS = [f"{number:032x}" for number in range(6)]


def calls(codes: list[str]) -> Records:
    made: Records = np.zeros(len(codes), RECORD)
    made["code"], made["record_id"] = codes, [one.encode() for one in IDS[: len(codes)]]
    return made


#: Five labels: one row's was lost, one's lies twice on the topic, one is of a row that the loop hasn't got.
GOOD_LABELS = LabelBooks(
    sent=calls(["OK"] * 5),
    on_topic={IDS[0]: 2, IDS[1]: 1, IDS[2]: 1, IDS[4]: 1},
    kept=frozenset(IDS[:4]),
    counted={"joined": 2, "no_estimate": 1, "repeated": 1, "late": 0, "unmatched": 0, "unusable": 0, "waiting": 1},
    lost=1,
)
#: Five rows: the first is from before, the second and the third are a win and one that comes twice, and two records of one input.
GOOD_TRIAL = TrialBooks(
    opened_unix_ns=10,
    on_topic=[
        TrialRow(IDS[5], b"z", 10, agree=False),
        TrialRow(IDS[0], b"a", 11, agree=False),
        TrialRow(IDS[1], b"b", 12, agree=True),
        TrialRow(IDS[0], b"a", 11, agree=False),
        TrialRow(IDS[2], b"c", 13, agree=False),
        TrialRow(IDS[3], b"b", 14, agree=False),
    ],
    answers={IDS[0]: trials.WIN, IDS[3]: trials.LOSS},
    counted={IDS[0]: "win", IDS[1]: "agree", IDS[2]: "pending"},
    told=(1, 1, 3),
    rows_read=6,
)
#: Six rows sampled; one is missing, one was dropped, one lies twice on the topic; three were learned and one held out.
GOOD = Books(
    calls=calls(["OK"] * 6),
    sampled=frozenset(IDS),
    on_topic={IDS[0]: 2, IDS[1]: 1, IDS[2]: 1, IDS[3]: 1},
    shadow=[Shadow(sampled=6, published=4, missing=1, pending=0, spooled=0, dropped=1, gaps=0)],
    learned=frozenset(IDS[:3]),
    held_out=frozenset(IDS[3:4]),
    counted={"learned": 3, "held_out": 1, "repeats": 1, "dead": 0, "refused": 0, "gaps": 0, "taken": 5, "open": 0},
    labels=GOOD_LABELS,
    trial=GOOD_TRIAL,
)


def test_good_books_close() -> None:
    assert GOOD.close


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"calls": calls(["OK"] * 5 + ["UNAVAILABLE"])}, "failed_requests"),
        ({"shadow": [dataclasses.replace(GOOD.shadow[0], published=5), GOOD.shadow[0]]}, "reports_in_which_equation_a_is_open"),
        ({"shadow": []}, "mirror_reports"),
        ({"sampled": frozenset(IDS[:5])}, "rows_sampled_reported_less_computed"),
        ({"on_topic": {**GOOD.on_topic, "f" * 32: 1}}, "rows_on_topic_that_nobody_sampled"),
        ({"on_topic": {IDS[0]: 3, IDS[1]: 1, IDS[2]: 1}}, "rows_sampled_that_nobody_accounts_for"),
        ({"on_topic": {**GOOD.on_topic, IDS[0]: 3}}, "pairs_on_topic_less_counted_by_the_loop"),
        ({"counted": {**GOOD.counted, "taken": 4}}, "pairs_on_topic_less_taken_by_the_status"),
        ({"counted": {**GOOD.counted, "open": 1}}, "pairs_open_in_the_status"),
        ({"learned": frozenset(IDS[:2])}, "pairs_on_topic_that_were_not_learned"),
        ({"learned": frozenset([*IDS[:3], IDS[5]])}, "pairs_learned_that_are_not_on_topic"),
        ({"held_out": frozenset(IDS[2:3])}, "pairs_learned_twice"),
        ({"labels": dataclasses.replace(GOOD_LABELS, sent=calls(["OK"] * 5 + ["RESOURCE_EXHAUSTED"]))}, "failed_feedback"),
        ({"labels": dataclasses.replace(GOOD_LABELS, lost=0)}, "labels_accepted_that_nobody_accounts_for"),
        ({"labels": dataclasses.replace(GOOD_LABELS, sent=calls(["OK"] * 4))}, "labels_on_topic_that_nobody_sent"),
        ({"labels": dataclasses.replace(GOOD_LABELS, counted={**GOOD_LABELS.counted, "waiting": 0})}, "labels_on_topic_less_counted_by_the_loop"),
        ({"labels": dataclasses.replace(GOOD_LABELS, removed=1)}, "label_messages_removed"),
        ({"labels": dataclasses.replace(GOOD_LABELS, kept=frozenset(IDS))}, "labels_joined_less_computed"),
        ({"labels": dataclasses.replace(GOOD_LABELS, counted={**GOOD_LABELS.counted, "joined": 3, "repeated": 0})}, "labels_repeated_less_computed"),
        ({"trial": trials.NONE}, "trial_rows_on_topic"),
        ({"trial": dataclasses.replace(GOOD_TRIAL, rows_read=5)}, "trial_rows_on_topic_less_read_by_the_loop"),
        ({"trial": dataclasses.replace(GOOD_TRIAL, counted={**GOOD_TRIAL.counted, IDS[3]: "loss"})}, "trial_rows_that_the_gate_counts_otherwise"),
        ({"trial": dataclasses.replace(GOOD_TRIAL, told=(1, 1, 4))}, "trial_inputs_less_counted"),
        ({"trial": dataclasses.replace(GOOD_TRIAL, told=(2, 1, 3))}, "trial_wins_less_computed"),
        ({"trial": dataclasses.replace(GOOD_TRIAL, answers={IDS[0]: trials.WIN, IDS[2]: trials.TIE})}, "trial_losses_less_computed"),
    ],
)  # fmt: skip
def test_books_that_do_not_close_say_which_line(change: dict[str, object], name: str) -> None:
    books = dataclasses.replace(GOOD, **change)  # type: ignore[arg-type]

    assert name in [check.name for check in books.checks() if not check.holds]


def test_a_report_of_the_mirror_is_summed_over_strata_and_has_the_gaps_of_its_workers() -> None:
    worker = records.CaptureReport(worker=1, gaps=2)
    mirror = records.CaptureReport(mirror=True)
    for stratum, published in (("served", 3), ("pass_through", 4)):
        mirror.strata.add(stratum=stratum, sampled=published + 1, published=published)

    (shadow,) = shadow_of([worker, mirror])

    assert (shadow.sampled, shadow.published, shadow.gaps) == (9, 7, 2)
    assert shadow.closes


@pytest.mark.parametrize("in_columns", [True, False])
def test_a_pair_tells_its_trials_outcome_by_what_the_teacher_said(in_columns: bool) -> None:
    batch = records.PairBatch()
    teacher_BC = np.eye(4, dtype=np.float32)[[1, 2, 3, 0]]
    for place, (candidate, incumbent) in enumerate([(1, 0), (0, 2), (3, 3), (0, 1)]):
        answer = records.TrialAnswer(trial_id="t-1", candidate_class=candidate, incumbent_class=incumbent)
        pair = batch.pairs.add(record_id=bytes([place]), trial=answer)
        pair.teacher.output.CopyFrom(to_record("output", teacher_BC[place : place + 1]))
    batch.pairs[3].trial.trial_id = "another"
    if in_columns:
        batch.columns.teacher_output.CopyFrom(to_record("output", teacher_BC))

    assert dict(trials.answers_in(batch, "t-1")) == {"00": trials.WIN, "01": trials.LOSS, "02": trials.TIE}
    assert not list(trials.answers_in(batch, ""))


def test_a_journal_tells_lost_labels_apart_from_lost_rows() -> None:
    worker = {"gaps": {"served": 7, "labels": 1}}
    accounts = {
        "fates": {"dropped": {"served": 5, "labels": 2}, "published": {"labels": 9}},
        "workers": {"0": worker, "1": {}},
    }

    assert labels.lost_of(accounts) == 3


def test_calls_are_judged_by_the_window_in_which_they_were_due() -> None:
    made = np.zeros(4, RECORD)
    made["due_s"], made["latency_s"] = [0.5, 1.5, 2.5, 9.0], [0.001, 0.004, 0.001, 1.0]

    figures, ratio = latencies(made, [("steady", 0, 1), ("fault", 1, 2), ("steady", 2, 3)])

    assert (figures["steady_calls"], figures["fault_calls"]) == (2, 1)
    assert ratio == pytest.approx(4.0)


def test_calls_a_second_are_the_median_over_short_times() -> None:
    made = np.zeros(16, RECORD)
    made["due_s"] = [0.1, 0.2, 1.1, 1.2, 2.5, 2.6, *[3.1] * 10]

    rates = rates_per_s(made, [("steady", 0, 3.5), ("fault", 3, 5.5)])

    assert rates == {"steady": 2.0, "fault": 5.0}
