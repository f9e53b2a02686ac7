"""Why a version serves, or doesn't: told from the ledger's lines.

Decides which lines belong to the story and their order: how it came to be, what was decided about it and by whom, from which data, what came after. Pure.
"""

from collections.abc import Sequence

from everstill.ledger.sentences import VERDICTS, describe, details, learned, when
from registry.bundle import version_of
from registry.ledger import Line
from registry.standing import Standing, sentence_of


def story(digest: str, lines: Sequence[Line], *, on_trial: bool = False) -> list[str]:
    """Return, in sentences, why a version is live or not."""
    standing, version = Standing.of(lines), version_of(digest)
    about = [
        line for line in lines if line.digest == digest and line.kind not in ("gap", "freeze", "unfreeze", "unpin")
    ]
    told = [_first(version, standing, digest, about, on_trial=on_trial)]
    if (known := next((line for line in about if line.learned_from or line.teacher_version), None)) is not None:
        told.append(_source(known))
    told += [f"line {line.number}, {when(line)}: {_decided(line)}" for line in about]
    told += [
        f"then line {line.number}, {when(line)}: {describe(line)}, by {line.actor}" for line in _after(digest, lines)
    ]
    if standing.live == digest and standing.hold is not None:
        told.append(f"{sentence_of(standing.hold)}: nothing is promoted")
    if standing.floor is not None and standing.floor.digest == digest:
        told.append("it is the last resort: everstill rollback --floor goes back to it")
    return told


def _first(version: str, standing: Standing, digest: str, about: Sequence[Line], *, on_trial: bool) -> str:
    if standing.live == digest and standing.arrival is not None:
        line = standing.arrival
        return f"{version} serves since {when(line)}: it {_how(line)} (line {line.number}, {line.actor})"
    now = f"{version_of(standing.live)} serves now" if standing.live else "no version serves yet"
    if digest in standing.served:
        return f"{version} served once and doesn't any more: {now}"
    if on_trial:
        return f"{version} doesn't serve: its trial is open, and {now}"
    last = next((line for line in reversed(about) if line.kind in VERDICTS), None)
    why = (
        f"it was {VERDICTS[last.kind]}"
        if last and last.kind != "observe"
        else "it passed the gate while nothing was to be promoted"
    )
    return f"{version} doesn't serve: {why if last else 'nothing was decided about it'}; {now}"


def _how(line: Line) -> str:
    """Return how a version came to serve."""
    if line.kind == "bootstrap":
        return "was the first, which nothing is compared with"
    if line.kind == "promote" and line.rows_digest is not None:
        return "passed the gate"
    return {"promote": "was promoted past the gate, by order", "pin": "was pinned"}.get(line.kind, "was gone back to")


def _decided(line: Line) -> str:
    """Return a decision with its evidence and who made it."""
    against = f" against {version_of(line.previous_digest)}" if line.rows_digest and line.previous_digest else ""
    if line.kind in VERDICTS and line.rows_digest is not None:
        reason = f" ({line.evidence['reason']})" if line.evidence.get("reason") else ""
        trial = f"in trial {line.trial_id}{against}{details(line)}{reason}"
        return f"{VERDICTS[line.kind]} {trial}, decided by {line.actor}"
    return f"{describe(line)}, decided by {line.actor}"


def _source(line: Line) -> str:
    """Return from which data a version comes, which teacher, and what decided."""
    parts = [
        f"it has learned from {text}"
        if (text := learned(line.learned_from))
        else "it is not known which messages it has learned from"
    ]
    if line.teacher_version:
        parts.append(f"the teacher was {line.teacher_version}")
    if line.config_digest:
        parts.append(f"the configuration was {line.config_digest[:12]}")
    if line.code_version:
        parts.append(f"the code {line.code_version}")
    return "; ".join(parts)


def _after(digest: str, lines: Sequence[Line]) -> list[Line]:
    """Return what replaced a version each time that it served."""
    return [line for line in lines if line.moves_live and line.previous_digest == digest and line.digest != digest]
