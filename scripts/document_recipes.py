"""Writes the figures of docs/recipes.md from benchmarks/results/recipes: `python -m scripts.document_recipes [--check]`.

A result that was measured on a branch names that commit, and as `commit_on_main` what it became there.

Decides how a result is shown; measures nothing. Called by hand after a measurement, and with --check by a test.
"""

import json
from typing import Any

from benchmarks.harness import ROOT
from everstill.recipes import NAMES
from scripts.figures import write_figures

PAGE, RESULTS = ROOT / "docs" / "recipes.md", ROOT / "benchmarks" / "results" / "recipes"
HEAD = """
| recipe, seed | requests (a second) | before | online | frozen | last quarter online, frozen | teacher calls | promoted | failed | commit |
|---|---|---|---|---|---|---|---|---|---|
"""


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as a table, recipes in their order, then seeds."""
    ordered = sorted(results, key=lambda one: (NAMES.index(one["recipe"]), one["seed"]))
    return HEAD + "".join(_row(one) for one in ordered) + "\n"


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
    return write_figures("document_recipes", __doc__, PAGE, table(read_results()), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
