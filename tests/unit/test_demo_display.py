"""The demo's live display: each decision once with its evidence, whole lines where there is no terminal."""

import io

import pytest
from rich.console import Console

from everstill.demo.display import Display, describe_agreement, describe_line
from everstill.demo.watch import View
from registry.ledger import Line


def line(kind: str, **evidence: object) -> Line:
    return Line(
        number=1,
        kind=kind,  # type: ignore[arg-type]
        trial_id="t",
        digest="abcdef" + "0" * 58,
        previous_digest=None,
        evidence=evidence,
        rows_digest=None,
        time_unix_s=0.0,
        actor="loop",
        previous_hash="",
    )


def shown(display: Display) -> str:
    output = display.console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


@pytest.fixture
def display() -> Display:
    display = Display()
    display.console = Console(file=io.StringIO(), width=80)
    return display


def show(display: Display, view: View) -> None:
    display.show(view, num_sent=50, num_all=100, phase="before the drift", latency_ms=(1.5, 9.0), failed=0)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("promote", ("PASS", "abcdef promoted")),
        ("reject", ("FAIL", "not promoted")),
        ("inconclusive", ("INCONCLUSIVE", "not promoted")),
    ],
)
def test_a_verdict_is_said_with_its_evidence(kind: str, words: tuple[str, str]) -> None:
    text = describe_line(line(kind, wins=16, losses=1, total=30, log_e=4.73, alpha=0.01))

    assert all(word in text for word in words)
    assert "16 wins, 1 losses in 30 trial requests; E = 113 of 100 needed" in text


def test_evidence_beyond_any_float_is_shown_and_no_error() -> None:
    assert "E = 1.01e+304" in describe_line(line("promote", wins=9, losses=0, total=9, log_e=1e6, alpha=0.01))


def test_each_decision_is_said_once(display: Display) -> None:
    view = View(lines=[line("bootstrap", pairs=96)])

    for _ in range(3):
        show(display, view)

    assert shown(display).count("first version") == 1


def test_without_a_terminal_the_state_is_one_whole_line(display: Display) -> None:
    agreement = {"estimate": 0.8, "low": 0.7, "high": 0.9, "num": 60}
    trial = {"candidate": "b" * 12, "incumbent": "a" * 12, "wins": 3, "losses": 1, "total": 40, "log_e": 0.5}

    show(
        display,
        View(gateway={"live": "a" * 12}, loop={"agreement": agreement, "trial": trial}, teacher_calls=10, dropped=2),
    )

    (text,) = shown(display).splitlines()
    for part in (
        "50 of 100",
        "a" * 12,
        "0.800 [0.700, 0.900]",
        "10 = 20.0%",
        "2 samples dropped",
        "p99 9.0 ms",
        "3 wins, 1 losses",
    ):
        assert part in text


def test_an_open_trial_says_how_many_requests_it_takes(display: Display) -> None:
    trial = {"candidate": "b" * 12, "incumbent": "a" * 12, "wins": 3, "losses": 1, "total": 40, "log_e": 0.5}

    show(display, View(loop={"trial": {**trial, "requests_needed": 1234}}))

    assert "3 wins, 1 losses, 40 requests of about 1,234" in shown(display)


def test_before_the_first_answer_no_latency_is_claimed(display: Display) -> None:
    display.show(View(), num_sent=0, num_all=100, phase="before the drift", latency_ms=None, failed=0)

    assert "latency: no answer yet" in shown(display)


def test_before_the_first_sample_no_agreement_is_claimed() -> None:
    assert describe_agreement(None) == "no sample yet"


def test_progress_without_a_terminal_is_not_a_line_each_time(display: Display) -> None:
    progress = display.progress()

    for number in range(50):
        progress(f"{number} files")

    assert shown(display) == ""
