"""A ledger line in words, the same wherever one is told: `ledger`, `show`, `status`, `up`.

Decides the words only. Pure.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence

from registry.bundle import version_of
from registry.ledger import Line, Range

#: Kinds that end a trial, in words.
VERDICTS = {
    "promote": "promoted by the gate",
    "reject": "rejected by the gate",
    "inconclusive": "not decided by its trial",
    "observe": "passed the gate and was not promoted",
}


def describe(line: Line) -> str:
    """Return a ledger line as a sentence with its evidence."""
    evidence, version = line.evidence, version_of(line.digest)
    if line.kind == "gap" and "cut_off_at" in evidence:
        place = f"{evidence.get('topic')}/{evidence.get('partition')}"
        return f"gap: {place}, cut off at offset {evidence['cut_off_at']} of {evidence.get('first')}"
    if line.kind == "gap" and "replaced_by" in evidence:
        return f"gap: {evidence.get('topic')}/{evidence.get('partition')}, replaced at offset {evidence.get('first')}"
    if line.kind == "gap":
        return (
            f"gap: {evidence.get('topic')}/{evidence.get('partition')}, offsets {evidence.get('first')} to "
            f"{int(evidence.get('end', 1)) - 1}"
        )
    if line.kind == "bootstrap":
        if evidence.get("source") == "file":
            return f"first version {version}, from {evidence.get('file', 'a file')}"
        return f"first version {version}, from {evidence.get('pairs', 0)} teacher answers"
    sentence = {
        "promote": f"{version} promoted",
        "reject": f"{version} rejected",
        "observe": f"{version} passed the gate, not promoted",
        "rollback": f"rolled back to {version}",
        "pin": f"pinned to {version}",
        "unpin": f"{version} is pinned no more",
        "freeze": "promotions frozen",
        "unfreeze": "promotions frozen no more",
        "floor": f"the last resort is {version}, from {evidence.get('file', 'a file')}",
    }.get(line.kind, f"{version}: {line.kind}")
    return sentence + details(line)


def details(line: Line) -> str:
    """Return the evidence behind a sentence, or the reason that its author gave."""
    evidence = line.evidence
    if "log_e" not in evidence:
        return f": {evidence['reason']}" if evidence.get("reason") else ""
    needed = 1 / float(evidence.get("alpha") or 0.01)
    held = f"; {evidence['held']}" if evidence.get("held") else ""
    return (
        f": {evidence.get('wins')} wins, {evidence.get('losses')} losses in {evidence.get('total')} requests, "
        f"E = {power(float(evidence['log_e']))} of {needed:.3g} needed{held}"
    )


def power(log_e: float) -> str:
    """Return e to the power of a logarithm, for people."""
    return f"{math.exp(min(log_e, 700.0)):.3g}"


def when(line: Line) -> str:
    """Return a line's time, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(line.time_unix_s))


def learned(ranges: Sequence[Range] | None) -> str:
    """Return which messages a version has learned from, or nothing where its line doesn't say."""
    by_place: dict[str, list[str]] = {}
    for one in ranges or ():
        stream = f" of stream {one.stream[:12]}" if one.stream else ""
        by_place.setdefault(f"{one.topic}/{one.partition}{stream}", []).append(f"{one.first} to {one.end - 1}")
    parts = [f"{place} {' and '.join(offsets)}" for place, offsets in by_place.items()]
    return f"offsets {', '.join(parts)}" if parts else ""


def rows(lines: Iterable[Line]) -> Iterator[str]:
    """Yield a ledger as text, a line each."""
    for line in lines:
        yield f"{line.number:>5}  {when(line)}  {describe(line)}  ({line.actor})"
