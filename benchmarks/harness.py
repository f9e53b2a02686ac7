"""How a benchmark is run and shown: its options, and one JSON object with machine, commit, command, seed, figures and checks.

Decides the shape of a result and the exit code (0 only where every check holds). Knows nothing of what is measured. Every
`python -m benchmarks.NAME` calls `main` with its measuring function; progress goes to standard error.
"""

import argparse
import dataclasses
import json
import operator
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
COMPARISONS: dict[str, Callable[[float, float], bool]] = {"==": operator.eq, ">=": operator.ge, "<=": operator.le}

Figures = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Check:
    """Something promised: `value` compared with `goal`."""

    name: str
    value: float
    comparison: str
    goal: float

    @property
    def holds(self) -> bool:
        """Whether the promise is kept; NaN keeps none."""
        return COMPARISONS[self.comparison](self.value, self.goal)

    def as_json(self) -> dict[str, Any]:
        """Return the check as a result shows it."""
        goal = f"{self.comparison} {self.goal:g}"
        return {"name": self.name, "value": self.value, "goal": goal, "holds": self.holds}


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says. `quick` asks for the same shape in under a minute on two cores; `own` is the benchmark's own."""

    quick: bool
    seed: int
    workers: int = 1
    own: argparse.Namespace = dataclasses.field(default_factory=argparse.Namespace)


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured (units in the names), and what was promised of it."""

    figures: Figures
    checks: list[Check]


def main(
    name: str,
    description: str,
    measure: Callable[[Options], Result],
    arguments: list[str] | None = None,
    *,
    workers: bool = False,
    add_own: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> int:
    """Measure, print, and return the exit code.

    Args:
        name: of the benchmark, as in `python -m benchmarks.NAME`.
        description: its module's docstring.
        workers: whether it takes --workers.
        add_own: adds the benchmark's own options.
    """
    parser = argparse.ArgumentParser(
        prog=f"benchmarks.{name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the same shape in under a minute, with fewer repetitions")
    parser.add_argument("--json", action="store_true", help="print one JSON object last, instead of a table")
    parser.add_argument("--out", type=pathlib.Path, help="write the JSON object to this file too")
    parser.add_argument("--seed", type=int, default=1)
    if workers:
        parser.add_argument("--workers", type=int, default=1, help="workers of the gateway (default 1)")
    add_own(parser)
    given = sys.argv[1:] if arguments is None else arguments
    parsed = parser.parse_args(given)
    started = time.perf_counter()
    result = measure(Options(parsed.quick, parsed.seed, getattr(parsed, "workers", 1), parsed))
    shown = {
        "benchmark": name,
        "machine": machine(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *given]),
        "seed": parsed.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "figures": result.figures,
        "checks": [check.as_json() for check in result.checks],
    }
    if parsed.out:
        parsed.out.write_text(json.dumps(shown, indent=1) + "\n")
    print(json.dumps(shown) if parsed.json else as_table(shown), flush=True)
    return 0 if all(check.holds for check in result.checks) else 1


def as_table(shown: dict[str, Any]) -> str:
    """Return a result for people."""
    lines = [f"{shown['benchmark']}, commit {shown['commit']}, {shown['seconds']} s"]
    lines += [f"  {name:<44} {json.dumps(value)}" for name, value in shown["figures"].items()]
    for check in shown["checks"]:
        verdict = "holds" if check["holds"] else "DOES NOT HOLD"
        lines.append(f"  {check['name']:<44} {check['value']:g} (goal {check['goal']}): {verdict}")
    return "\n".join(lines)


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Return what the figures depend on; nothing that names the machine."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "python": platform.python_version(),
    }


def commit() -> str:
    """Return the checkout's commit, with a plus where a tracked file differs from it; `unknown` outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            cwd=ROOT, capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _field(path: str, name: str) -> str:
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "unknown")
