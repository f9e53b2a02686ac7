"""The demo's report: the JSON object and the summary in words. Pure."""

from collections.abc import Sequence
from typing import Any

from everstill.demo.score import TEACHER_VERSION, Scores, Sent, agreement, latencies
from everstill.demo.watch import View
from registry.bundle import version_of
from registry.ledger import Line

#: A failed request this close to a swap is put down to it, in seconds.
NEAR_SWAP_S = 1.0


def describe_versions(lines: Sequence[Line], sent: Sequence[Sent]) -> list[dict[str, Any]]:
    """Return every version that the ledger made live, with its evidence and the first request that it answered."""
    first: dict[str, Sent] = {}
    for one in sent:
        if not one.error and one.version not in first:
            first[one.version] = one
    versions = []
    for line in lines:
        if not line.moves_live:
            continue
        version = version_of(line.digest)
        seen = first.get(version)
        versions.append(
            {
                "version": version,
                "kind": line.kind,
                "ledger_line": line.number,
                "first_request": seen.index if seen else None,
                "first_request_s": seen.time_s if seen else None,
                "evidence": line.evidence,
            }
        )
    return versions


def build(
    sent: Sequence[Sent], scores: Scores, drift: int, view: View, *, frozen_version: str, wall_s: float
) -> dict[str, Any]:
    """Return the report."""
    first_student = next((one.index for one in sent if not one.error and one.version != TEACHER_VERSION), len(sent))
    versions = describe_versions(view.lines, sent)
    failed = [one for one in sent if one.error]
    swaps = [
        one["first_request_s"] for one in versions if one["kind"] != "bootstrap" and one["first_request_s"] is not None
    ]
    kinds = [line.kind for line in view.lines]
    pairs = view.loop.get("pairs", {})
    return {
        "requests": len(sent),
        "failed_requests": len(failed),
        "teacher_calls": view.teacher_calls,
        "teacher_calls_ratio": view.teacher_calls / max(1, len(sent)),
        "promotions": kinds.count("promote"),
        "rejections": kinds.count("reject"),
        "inconclusive": kinds.count("inconclusive"),
        "versions": versions,
        "agreement": agreement(sent, scores, drift, first_student),
        "latency_ms": latencies(sent, scores),
        "swap": {
            "count": len(swaps),
            "failed_requests": sum(any(abs(one.time_s - at) <= NEAR_SWAP_S for at in swaps) for one in failed),
        },
        "drift_at_request": drift,
        "first_student_request": first_student,
        "frozen_version": frozen_version,
        "samples_dropped": view.dropped,
        "pairs": pairs,
        "scoring_teacher_calls": len(scores.teacher),
        "wall_s": wall_s,
        "decisions": [
            {"line": line.number, "kind": line.kind, "trial_id": line.trial_id, "evidence": line.evidence}
            for line in view.lines
        ],
    }


def summarise(report: dict[str, Any]) -> str:
    """Return what happened, in words and with intervals; nothing is said that the report doesn't hold."""
    parts = report["agreement"]
    end, frozen = parts["end"], parts["frozen_end"]
    sentences = [f"{report['requests']:,} requests were sent, {report['failed_requests']:,} failed."]
    if report["first_student_request"] < report["requests"]:
        sentences.append(
            f"The first student took over at request {report['first_student_request']:,}; in the second half of the time before the "
            f"drift it agreed with the teacher on {_share(parts['before_drift'])} of requests."
        )
    else:
        sentences.append("No student took over: the teacher answered all along.")
    sentences += [
        f"At request {report['drift_at_request']:,} the inputs changed: over the next {parts['after_drift']['num']} answers of the "
        f"student agreement was {_share(parts['after_drift'])}.",
        f"The gate promoted {_count(report['promotions'], 'candidate')}, rejected {report['rejections']} and found "
        f"{report['inconclusive']} inconclusive; {_count(report['swap']['failed_requests'], 'request')} failed near a swap.",
        f"Over the last quarter the service agreed on {_share(end)}; the student that served at the drift, left as it was, would have "
        f"agreed on {_share(frozen)} of the same requests.",
        f"The service asked the teacher about {report['teacher_calls']:,} rows, {report['teacher_calls_ratio']:.1%} of requests, first "
        f"version, trials and retries included"
        + (f"; {_count(report['samples_dropped'], 'sample')} had to be dropped." if report["samples_dropped"] else "."),
        f"Afterwards this demo's client asked it about every request, only to score: those {report['scoring_teacher_calls']:,} calls "
        "are not counted.",
    ]
    if end["estimate"] is not None and frozen["estimate"] is not None:
        if end["high"] < frozen["low"]:
            sentences.append("On this run learning did harm: the frozen student was better.")
        elif end["low"] <= frozen["high"]:
            sentences.append("On this run the two can't be told apart: their intervals overlap.")
    return " ".join(sentences)


def title(report: dict[str, Any]) -> str:
    """Return the picture's title."""
    asked = f"{report['teacher_calls_ratio']:.0%} of requests asked of the teacher"
    return f"everstill demo: {_count(report['promotions'], 'promotion')}, {asked}"


def _count(num: int, noun: str) -> str:
    return f"{num:,} {noun}" + ("" if num == 1 else "s")


def _share(estimate: dict[str, Any]) -> str:
    if estimate["estimate"] is None:
        return "no requests"
    return f"{estimate['estimate']:.1%} [{estimate['low']:.1%}, {estimate['high']:.1%}]"
