"""Writes the figures of docs/gate.md from benchmarks/results/gates.json: `python -m scripts.document_gates [--check]`.

Decides how a result is shown; measures nothing. Called by hand after a measurement, and with --check by a test.
"""

import json
from typing import Any

from benchmarks.harness import ROOT
from scripts.figures import write_figures

PAGE, RESULT = ROOT / "docs" / "gate.md", ROOT / "benchmarks" / "results" / "gates.json"
NAMES = {
    "everstill": "**everstill**, alpha .01",
    "everstill_regulated": "everstill, regulated",
    "better_on_last_1000": "better on the last 1,000, at any request",
    "better_on_first_1000": "better on 1,000, one look",
    "mcnemar_peeking": "McNemar p < .05, at any request",
    "mcnemar_once": "McNemar p < .05, one look at 3,090",
}


def shown(result: dict[str, Any]) -> str:
    """Return a result as text and tables."""
    figures = result["figures"]
    told = (
        f"\nCommit `{result.get('commit_on_main', result['commit'])}`, {result['date']}, seed {result['seed']}, {result['machine']['cpu']}, "
        f"{result['seconds']:.0f} s.\n\n{figures['refreshes']:,} simulated refreshes of at most {figures['requests_at_most']:,} requests, of which the "
        f"students differ on {figures['differing']:.0%}: half change nothing, a quarter are worse by .5 to 2 points, a quarter better by as much.\n\n"
        "| rule | false promotions for each 1,000 refreshes (of harmful ones) | points lost by them | power | requests | teacher calls |\n|---|---|---|---|---|---|\n"
    )
    told += "".join(_simulated(NAMES[name], one) for name, one in figures["simulated"].items())
    real = figures.get("nsl_kdd")
    if not real:
        return told + "\n"
    told += (
        f"\nOne real drifting stream, `nsl_kdd` ({real['requests']:,} requests, seeds {real['seeds'][0]} to {real['seeds'][-1]}), the same small learner under each rule. A promotion counts as false where, on the 2,000 requests "
        "after its trial, the new student agrees with the teacher no more often than the one before.\n\n"
        "| rule | refreshes | promoted | of them false | points lost by them | agreement of what served | teacher calls |\n|---|---|---|---|---|---|---|\n"
    )
    return told + "".join(_real(NAMES[name], one) for name, one in real.items() if name in NAMES) + "\n"


def _simulated(name: str, one: dict[str, Any]) -> str:
    cells = [
        name,
        f"{one['false_per_1000']:.1f} ({one['harmful_per_1000']:.1f})",
        f"{one['lost_points_per_1000']:.1f}",
        f"{one['power']:.1%}",
        f"{one['mean_requests']:,.0f}",
        f"{one['mean_teacher_calls']:,.0f}",
    ]
    return "| " + " | ".join(cells) + " |\n"


def _real(name: str, one: dict[str, Any]) -> str:
    cells = [
        name,
        str(one["refreshes"]),
        str(one["promotions"]),
        str(one["false_promotions"]),
        f"{one['lost_points']:.1f}",
        f"{one['agreement']:.4f}",
        f"{one['teacher_calls_ratio']:.1%}",
    ]
    return "| " + " | ".join(cells) + " |\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or with --check say whether it is as it would be written."""
    return write_figures("document_gates", __doc__, PAGE, shown(json.loads(RESULT.read_text())), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
