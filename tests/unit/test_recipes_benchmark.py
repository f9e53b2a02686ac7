"""The recipes' benchmark: a case that has a result isn't run again, goals are judged over seeds, a short run promises little."""

import argparse
import json
import pathlib
from typing import Any

import pytest

from benchmarks import recipes
from benchmarks.harness import Options
from scripts import document_recipes


def report(*, online: float = 0.7, calls: float = 0.09, failed: int = 0) -> dict[str, Any]:
    share = {"low": 0.1, "high": 0.9, "num": 100}
    parts = {"before_drift": 0.7, "after": online, "frozen_after": 0.2, "end": online, "frozen_end": 0.2}
    return {
        **dict.fromkeys(recipes.KEPT),
        "failed_requests": failed,
        "requests_per_s": 75.0,
        "waited_s": 3.2,
        "teacher_calls_ratio": calls,
        "promotions": 4,
        "agreement": {name: {**share, "estimate": estimate} for name, estimate in parts.items()},
        "decisions": [{"kind": "promote", "evidence": {"wins": 9, "losses": 0, "total": 30, "log_e": 5.0}}],
    }


def options(*, quick: bool = False, seeds: int = 2) -> Options:
    return Options(quick, 1, own=argparse.Namespace(recipe="clinc150", seeds=seeds, again=False))


@pytest.fixture
def asked(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace the demo by one that notes what it was asked and answers with a fixed report; results go to a folder of the test."""
    arguments: list[list[str]] = []

    def demo(given: list[str]) -> dict[str, Any]:
        arguments.append(given)
        return report()

    monkeypatch.setattr(recipes, "demo", demo)
    monkeypatch.setattr(recipes, "RESULTS", tmp_path / "results")
    return arguments


def test_each_case_leaves_a_file_and_is_not_run_again(asked: list[list[str]]) -> None:
    first = recipes.measure(options(seeds=1))
    both = recipes.measure(options(seeds=2))

    assert asked == [["--recipe", "clinc150", "--seed", seed, "--requests", "22500"] for seed in ("1", "2")]
    kept = json.loads((recipes.RESULTS / "clinc150-seed1.json").read_text())
    assert kept["command"] == "everstill demo --json --recipe clinc150 --seed 1 --requests 22500"
    assert kept["verdicts"] == [{"kind": "promote", "wins": 9, "losses": 0, "total": 30}]
    assert first.figures["clinc150"]["seeds"] == [1]
    assert both.figures["clinc150"]["seeds"] == [1, 2]


def test_a_quick_run_is_shorter_keeps_nothing_and_promises_no_agreement(asked: list[list[str]]) -> None:
    result = recipes.measure(options(quick=True))

    assert asked == [["--recipe", "clinc150", "--seed", "1", "--requests", "4500"]]
    assert not recipes.RESULTS.exists()
    assert [check.name for check in result.checks] == ["clinc150_failed_requests"]


@pytest.mark.parametrize(
    ("runs", "broken"),
    [
        ([report(), report()], []),
        ([report(online=0.9), report(online=0.5)], []),
        ([report(online=0.6), report(online=0.7)], ["clinc150_agreement_online"]),
        ([report(), report(calls=0.101)], ["clinc150_teacher_calls_ratio"]),
        ([report(), report(failed=1)], ["clinc150_failed_requests"]),
    ],
)
def test_agreement_is_judged_on_average_and_calls_in_every_run(runs: list[dict[str, Any]], broken: list[str]) -> None:
    figures = recipes.figures_of([{**run, "seed": seed, "commit": "c"} for seed, run in enumerate(runs)])

    checks = recipes.checks_of("clinc150", figures, quick=False)

    assert [check.name for check in checks if not check.holds] == broken


def test_the_page_of_the_recipes_shows_the_kept_results() -> None:
    assert document_recipes.main(["--check"]) == 0
    assert {one["recipe"] for one in document_recipes.read_results()} >= {"clinc150", "nsl_kdd"}
