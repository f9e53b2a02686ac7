"""What `everstill gate` says to a person: no projection where a verdict stands, and no bound without its meaning."""

import pytest

from distill_loop.gates.app import main


def said(capsys: pytest.CaptureFixture[str], wins: int, losses: int, total: int) -> str:
    assert main(["--wins", str(wins), "--losses", str(losses), "--total", str(total)]) == 0
    return capsys.readouterr().out


def test_an_open_question_comes_with_a_projection(capsys: pytest.CaptureFixture[str]) -> None:
    assert "at the present rates it gets there at about 3,583 requests" in said(capsys, 60, 30, 3000)


def test_students_that_never_differ_never_get_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "at the present rates it never gets there" in said(capsys, 0, 0, 500)


def test_a_verdict_stands_without_a_projection(capsys: pytest.CaptureFixture[str]) -> None:
    for counters in ((277, 170, 20_000), (5, 30, 3000)):
        assert "present rates" not in said(capsys, *counters)


def test_a_bound_below_zero_beside_a_pass_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, 20, 3, 10_000)

    assert out.startswith("PASS")
    assert "at least -0.0004" in out
    assert "the test is what decides" in out
