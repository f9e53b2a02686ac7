"""`python -m distill_loop.gates.app --wins W --losses L --total N`: what the gate says of counters. Imports no torch."""

import argparse
import json
import math
import sys
from typing import NoReturn

from distill_loop.config import GateSection
from distill_loop.gates.evidence import Counters
from distill_loop.gates.rule import Rule
from distill_loop.gates.tally import Tally
from distill_loop.gates.verdict import Decision, decide

DEFAULTS = GateSection()
#: Counters beyond this are a slip of the pen, and the arithmetic's end.
MAX_TOTAL = 10**15


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Print the gate's answer; returns 0, whatever the verdict, or 2 where the counters are impossible."""
    parser = _Parser(
        prog="everstill gate",
        description="What the gate says of a trial's counters.",
        epilog="Example: everstill gate --wins 60 --losses 30 --total 3000 --json",
    )
    parser.add_argument(
        "--wins", type=int, required=True, help="requests on which only the candidate agreed with the teacher"
    )
    parser.add_argument("--losses", type=int, required=True, help="requests on which only the incumbent did")
    parser.add_argument("--total", type=int, required=True, help="all trial requests, ties and agreeing ones included")
    parser.add_argument(
        "--margin", type=float, default=DEFAULTS.margin, help="non-inferiority margin, 0 for superiority"
    )
    parser.add_argument("--alpha", type=float, default=DEFAULTS.alpha, help="error rate of the trial")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parsed = parser.parse_args(arguments)
    if not 0 < parsed.alpha < 1 or not 0 <= parsed.margin < 1:
        print("everstill gate: alpha must lie in (0, 1) and margin in [0, 1)", file=sys.stderr)
        return 2
    if parsed.total > MAX_TOTAL:
        print(f"everstill gate: a total of more than {MAX_TOTAL:,} requests is not believed", file=sys.stderr)
        return 2
    try:
        counters = Counters(parsed.wins, parsed.losses, parsed.total)
    except ValueError as error:
        print(f"everstill gate: {error}", file=sys.stderr)
        return 2
    rule = Rule(
        alpha=parsed.alpha,
        margin=parsed.margin,
        min_gain=DEFAULTS.min_gain,
        futility_evidence=DEFAULTS.futility_evidence,
        max_rows=DEFAULTS.cap_of(parsed.margin),
    )
    decision = decide(rule, Tally.of(counters))
    body = {
        "wins": counters.wins,
        "losses": counters.losses,
        "total": counters.total,
        "margin": parsed.margin,
        "alpha": parsed.alpha,
        **decision.as_evidence(),
    }
    if parsed.json:
        print(json.dumps(body))
    else:
        print("\n".join(_sentences(decision, parsed.alpha, parsed.margin)))
    return 0


def _sentences(decision: Decision, alpha: float, margin: float) -> list[str]:
    """Return what a person reads: the verdict, how far the evidence is, and what is certain of the advantage."""
    evidence, needed = f"{math.exp(min(decision.log_e, 700)):.4g}", f"{1 / alpha:.4g}"
    lines = [f"{decision.verdict}: {decision.reason}"]
    if decision.verdict == "INCONCLUSIVE":
        when = (
            "at the present rates it never gets there"
            if decision.requests_needed is None
            else f"at the present rates it gets there at about {decision.requests_needed:,} requests"
        )
        lines.append(f"evidence {evidence} of {needed} needed; {when}")
    elif decision.verdict == "FAIL":
        lines.append(f"evidence for a promotion {evidence} of {needed} needed")
    bound = f"the advantage is at least {decision.lower_bound:+.4f}, at level {alpha:g}"
    if decision.verdict == "PASS" and decision.lower_bound < -margin:
        bound += " (this bound is by the moment form, which is looser than the test; the test is what decides)"
    return [*lines, bound]


if __name__ == "__main__":
    raise SystemExit(main())
