"""`python -m benchmarks.chaos [--case NAME] [--results FOLDER]`: every fault, or one, each judged by itself.

With --results each case's result is written to FOLDER/NAME.json, and one that is there (of any commit) isn't played again.
"""

import argparse
import json
import pathlib
import tempfile
from typing import Any

from benchmarks import harness
from benchmarks.chaos.cases import CASES, run
from benchmarks.harness import Check, Options, Result


def measure(options: Options) -> Result:
    """Play the cases that were asked for."""
    figures: dict[str, Any] = {}
    checks: list[Check] = []
    machine = harness.machine()  # before a rig gives this process one core
    for name in [options.own.case] if options.own.case else CASES:
        kept = options.own.results / f"{name}.json" if options.own.results else None
        if kept is not None and kept.exists():
            harness.say(f"{name}: is in {kept} already")
            continue
        with tempfile.TemporaryDirectory(prefix="everstill-chaos-") as folder:
            result = run(name, options, pathlib.Path(folder))
        figures[name] = result.figures
        checks += [Check(f"{name}: {one.name}", one.value, one.comparison, one.goal) for one in result.checks]
        for one in result.checks:
            harness.say(f"{name}: {one.name} {one.value:g} {'holds' if one.holds else 'DOES NOT HOLD'}")
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shown = {
                "case": name,
                "machine": machine,
                "commit": harness.commit(),
                "quick": options.quick,
                "seed": options.seed,
                "figures": dict(result.figures),
                "checks": [one.as_json() for one in result.checks],
            }
            kept.write_text(json.dumps(shown, indent=1) + "\n")
    return Result(figures, checks)


def add_own(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--case", choices=sorted(CASES))
    parser.add_argument(
        "--results", type=pathlib.Path, help="folder of a result for each case; one that is there isn't played again"
    )


if __name__ == "__main__":
    raise SystemExit(harness.main("chaos", __doc__ or "", measure, add_own=add_own))
