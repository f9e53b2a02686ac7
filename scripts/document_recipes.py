"""Writes the figures of docs/recipes.md from benchmarks/results/recipes: `python -m scripts.document_recipes [--check]`.

A result that was measured on a branch names that commit, and as `commit_on_main` what it became there.

Decides how a result is shown; measures nothing. Called by hand after a measurement, and with --check by a test.
"""

import argparse
import json
import sys
from typing import Any

from benchmarks.harness import ROOT
from everstill.recipes import NAMES

PAGE, RESULTS = ROOT / "docs" / "recipes.md", ROOT / "benchmarks" / "results" / "recipes"
BEGIN, END = "<!-- figures: written by `python -m scripts.document_recipes` -->\n", "<!-- end of figures -->\n"
HEAD = """
| recipe, seed | requests (a second) | before | online | frozen | last quarter online, frozen | teacher calls | promoted | failed | commit |
|---|---|---|---|---|---|---|---|---|---|
"""


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as a table, recipes in their order, then seeds."""
    ordered = sorted(results, key=lambda one: (NAMES.index(one["recipe"]), one["seed"]))
    return HEAD + "".join(_row(one) for one in ordered) + "\n"


def documented(page: str, results: list[dict[str, Any]]) -> str:
    """Return a page with its figures replaced."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table(results) + END + after


def read_results() -> list[dict[str, Any]]:
    """Return the kept results."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def _row(result: dict[str, Any]) -> str:
    shares = result["agreement"]
    waited = f", waited {result['waited_s']:.0f} s" if result["waited_s"] >= 1 else ""
    cells = [
        f"`{result['recipe']}`, {result['seed']}",
        f"{result['requests']:,} ({result['requests_per_s']:g}{waited})",
        _share(shares["before_drift"]),
        f"**{_share(shares['after'])}**",
        _share(shares["frozen_after"]),
        f"{shares['end']['estimate']:.3f}, {shares['frozen_end']['estimate']:.3f}",
        f"{result['teacher_calls_ratio']:.2%}",
        f"{result['promotions']} of {len(result['verdicts']) - 1}",
        str(result["failed_requests"]),
        f"`{result.get('commit_on_main', result['commit'])}`",
    ]
    return "| " + " | ".join(cells) + " |\n"


def _share(estimate: dict[str, Any]) -> str:
    return f"{estimate['estimate']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or with --check say whether it is as it would be written."""
    parser = argparse.ArgumentParser(prog="scripts.document_recipes", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page is out of date")
    parsed = parser.parse_args(arguments)
    page = PAGE.read_text()
    wanted = documented(page, read_results())
    if parsed.check:
        if page != wanted:
            print(f"{PAGE.name} is out of date: run python -m scripts.document_recipes", file=sys.stderr)
        return int(page != wanted)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
