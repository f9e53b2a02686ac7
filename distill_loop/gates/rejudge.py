"""Judging a decided trial again: its kept rows and its ledger line's evidence give the same decision, to the same numbers, or it is said what doesn't fit.

Decides nothing new: it counts the rows under the rule that was fixed when the candidate was frozen and asks the gate. `everstill ledger audit` calls
it. Pure.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from distill_loop.gates.rows import row_of, tally_of
from distill_loop.gates.rule import Rule
from distill_loop.gates.verdict import Decision, Wait, decide
from protos.errors import FormatError

#: What a line says of a decision: the numbers, and what follows from them.
NUMBERS = ("log_e", "lower_bound", "requests_needed", "criteria")
VERDICT = ("verdict", "final", "cause", "reason")
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
        FormatError: the line keeps no rule (it is of a version before 0.1.0's gate), or the rows are not a trial's.
    """
    if not isinstance(evidence.get("rule"), dict):
        raise FormatError(
            "the ledger line keeps no rule", fix="Trials of versions before rules were kept can't be judged again"
        )
    try:
        rule, wait = Rule.from_dict(evidence["rule"]), Wait(**evidence.get("wait", {}))
    except TypeError as error:
        raise FormatError(f"the ledger line's rule is none: {error}", fix="Verify the ledger") from None
    found = {}
    for number, line in enumerate(rows.decode("utf-8", "replace").splitlines(), start=1):
        try:
            record_id, row = row_of(line)
        except ValueError as error:
            raise FormatError(f"line {number} of the kept rows {error}", fix="The rows were changed") from None
        if record_id in found:
            raise FormatError(f"line {number} of the kept rows repeats a record", fix="The rows were changed")
        found[record_id] = row
    if len({row.input_key for row in found.values()}) < len(found):
        raise FormatError("an input counts twice in the kept rows", fix="The rows were changed")
    decision = decide(rule, tally_of(found.values(), rule), wait)
    return Rejudged(decision, len(found), _differences(decision, evidence))


def _differences(decision: Decision, evidence: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a line says that the decision doesn't. Why a trial was closed from outside is not the gate's to say."""
    now = json.loads(json.dumps(decision.as_evidence()))
    judged = NUMBERS if "closed" in evidence else (*NUMBERS, *VERDICT)
    return tuple(
        f"{name}: the line says {evidence.get(name)!r}, the rows {now[name]!r}"
        for name in judged
        if not _same(evidence.get(name), now[name])
    )


def _same(kept: Any, now: Any) -> bool:
    """Whether two JSON values are the same but for the last bits of numbers."""
    if isinstance(kept, float) and isinstance(now, float):
        return math.isclose(kept, now, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(kept, dict) and isinstance(now, dict):
        return kept.keys() == now.keys() and all(_same(kept[name], now[name]) for name in now)
    if isinstance(kept, list) and isinstance(now, list):
        return len(kept) == len(now) and all(map(_same, kept, now))
    return bool(kept == now)
