"""Judging a decided trial again: its kept rows and its ledger line's evidence give the same decision, to the same numbers, or it is said what doesn't fit.

Decides nothing new: it counts the rows under the rule that the line keeps and asks the gate. `distill_loop.audit_app` calls it. Pure.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from distill_loop.gates.evidence import Counters
from distill_loop.gates.trial import counters_of_rows
from distill_loop.gates.verdict import Decision, Rule, Wait, decide
from protos.errors import FormatError

#: The same arithmetic on another machine may differ in its last bits.
TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class Rejudged:
    """What the rows say. differences: what the ledger line says otherwise, in words; empty where all of it is the same."""

    decision: Decision
    num_rows: int
    differences: tuple[str, ...]


def rejudge(rows: bytes, evidence: Mapping[str, Any]) -> Rejudged:
    """Judge a trial again.

    Args:
        rows: the trial's kept rows, as the registry has them (`trials/<id>.jsonl`).
        evidence: of its ledger line.

    Raises:
        FormatError: the line keeps no rule, or the rows are not a trial's.
    """
    if not isinstance(evidence.get("rule"), dict):
        raise FormatError(
            "the ledger line keeps no rule", fix="Trials of versions before rules were kept can't be judged again"
        )
    try:
        rule, wait = Rule(**evidence["rule"]), Wait(**evidence.get("wait", {}))
        lines = rows.decode("utf-8", "replace").splitlines()
        cautious = counters_of_rows(lines)
        pending = sum(json.loads(line)["outcome"] == "pending" for line in lines if line.strip())
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"the rule or the kept rows of the trial are none: {error}", fix="Verify the ledger"
        ) from None
    certain = Counters(cautious.wins, cautious.losses - pending, cautious.total - pending)
    decision = decide(rule, certain, cautious, wait)
    said = {
        "verdict": decision.verdict,
        "log_e": decision.log_e,
        "lower_bound": decision.lower_bound,
        "wins": cautious.wins,
        "losses": cautious.losses - pending,
        "pending": pending,
        "total": cautious.total,
    }
    differences = tuple(
        f"{name}: the line says {evidence.get(name)!r}, the rows {value!r}"
        for name, value in said.items()
        if not _same(evidence.get(name), value)
    )
    return Rejudged(decision, cautious.total, differences)


def _same(kept: object, now: object) -> bool:
    if isinstance(kept, float) and isinstance(now, float):
        return math.isclose(kept, now, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return kept == now
