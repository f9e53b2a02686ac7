"""The demo's report: the JSON object and the summary in words. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from everstill.demo.score import TEACHER_VERSION, Scores, Sent, agreement, latencies, phases
from everstill.demo.topics import Stream
from everstill.demo.watch import View
from everstill.recipes.recipe import Recipe
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
    sent: Sequence[Sent],
    scores: Scores,
    drifts: Sequence[int],
    view: View,
    *,
    recipe: Recipe,
    stream: Stream,
    requests_per_s: float,
    waited_s: float,
    trial_opened_at: Mapping[str, int],
    frozen_version: str,
    wall_s: float,
) -> dict[str, Any]:
    """Return the report.

    Args:
        drifts: requests at which the traffic turned; the frozen student is the one that served at the first.
        waited_s: seconds that the client waited for the loop.
        trial_opened_at: by trial, the request at which it was first seen open.
    """
    first_student = next((one.index for one in sent if not one.error and one.version != TEACHER_VERSION), len(sent))
    versions = describe_versions(view.lines, sent)
    failed = [one for one in sent if one.error]
    swaps = [
        one["first_request_s"] for one in versions if one["kind"] != "bootstrap" and one["first_request_s"] is not None
    ]
    kinds = [line.kind for line in view.lines]
    last = {one.version for one in sent[len(sent) - len(sent) // 4 :] if not one.error}
    return {
        "recipe": recipe.name,
        "stream": stream.report(),
        "requests": len(sent),
        "failed_requests": len(failed),
        "requests_per_s": requests_per_s,
        "waited_s": waited_s,
        "teacher_calls": view.teacher_calls,
        "teacher_calls_ratio": view.teacher_calls / max(1, len(sent)),
        "promotions": kinds.count("promote"),
        "rejections": kinds.count("reject"),
        "inconclusive": kinds.count("inconclusive"),
        "open_trial": describe_trial(view.loop.get("trial"), trial_opened_at),
        "requests_for_a_swap": recipe.requests_for_a_swap,
        "versions": versions,
        "agreement": agreement(sent, scores, drifts[0], first_student),
        "phases": phases(sent, scores, drifts),
        "latency_ms": latencies(sent, scores),
        "swap": {
            "count": len(swaps),
            "failed_requests": sum(any(abs(one.time_s - at) <= NEAR_SWAP_S for at in swaps) for one in failed),
        },
        "drift_at_request": drifts[0],
        "drifts_at_requests": list(drifts),
        "first_student_request": first_student,
        "frozen_version": frozen_version,
        "frozen_serves_at_end": last == {frozen_version},
        "samples_dropped": view.dropped,
        "pairs": view.loop.get("pairs", {}),
        "scoring_teacher_calls": len(scores.teacher),
        "wall_s": wall_s,
        "decisions": [
            {"line": line.number, "kind": line.kind, "trial_id": line.trial_id, "evidence": line.evidence}
            for line in view.lines
        ],
    }


def describe_trial(trial: Mapping[str, Any] | None, opened_at: Mapping[str, int]) -> dict[str, Any] | None:
    """Return the trial that was open when the stream ended, as the loop last told it, or None."""
    if not trial:
        return None
    told = ("trial_id", "candidate", "incumbent", "wins", "losses", "pending", "total", "log_e", "requests_needed")
    return {name: trial.get(name) for name in told} | {"first_request": opened_at.get(trial["trial_id"])}


def summarise(report: dict[str, Any], recipe: Recipe) -> str:
    """Return what happened, in words and with intervals; nothing is said that the report doesn't hold."""
    parts = report["agreement"]
    sentences = [f"{report['requests']:,} requests were sent, {report['failed_requests']:,} failed."]
    if report["waited_s"] >= 1:
        sentences.append(
            f"They came at up to {report['requests_per_s']:g} a second, faster than such traffic is; the client waited "
            f"{report['waited_s']:.0f} s for the loop to keep up."
        )
    if report["first_student_request"] < report["requests"]:
        sentences.append(
            f"The first student took over at request {report['first_student_request']:,}; in the second half of the time before the "
            f"drift it agreed with the teacher on {_share(parts['before_drift'])} of requests."
        )
    else:
        sentences.append("No student took over: the teacher answered all along.")
    sentences += [
        f"At request {report['drift_at_request']:,} {recipe.after_drift}: over the next {parts['after_drift']['num']} answers of the "
        f"student agreement was {_share(parts['after_drift'])}.",
        *_what_the_gate_did(report),
        f"Over the last quarter the service agreed on {_share(parts['end'])}; the student that served at the drift, left as it was, would "
        f"have agreed on {_share(parts['frozen_end'])} of the same requests.",
        f"The service asked the teacher about {report['teacher_calls']:,} rows, {report['teacher_calls_ratio']:.1%} of requests, first "
        f"version, trials and retries included"
        + (f"; {_count(report['samples_dropped'], 'sample')} had to be dropped." if report["samples_dropped"] else "."),
        f"Afterwards this demo's client asked it about every request, only to score: those {report['scoring_teacher_calls']:,} calls "
        "are not counted.",
        *_comparison(report),
    ]
    return " ".join(sentences)


def few_requests(for_a_swap: int) -> str:
    """Return what is said where there are too few requests for the gate to decide anything."""
    return f"a gated swap usually takes about {for_a_swap:,} requests: with --requests below that there may be none"


def _what_the_gate_did(report: dict[str, Any]) -> list[str]:
    sentences = []
    if report["promotions"]:
        sentences.append(
            f"The gate promoted {_count(report['promotions'], 'candidate')}, rejected {report['rejections']} and found "
            f"{report['inconclusive']} inconclusive; {_count(report['swap']['failed_requests'], 'request')} failed near a swap."
        )
    else:
        sentences.append(
            f"There was no promotion; the gate rejected {report['rejections']} and found {report['inconclusive']} inconclusive."
        )
    if trial := report["open_trial"]:
        needed = trial["requests_needed"]
        sentences.append(
            f"A trial was still open: {_count(trial['wins'], 'win')} and {trial['losses']} losses in "
            f"{_count(trial['total'], 'trial request')}, "
            + (f"and at these rates it would take {needed:,}." if needed else "too few to say how many it takes.")
        )
    if not report["promotions"] and report["requests"] < report["requests_for_a_swap"]:
        few = few_requests(report["requests_for_a_swap"])
        sentences.append(few[0].upper() + few[1:] + ".")
    return sentences


def _comparison(report: dict[str, Any]) -> list[str]:
    """Say what the last quarter proves, where that isn't plain."""
    end, frozen = report["agreement"]["end"], report["agreement"]["frozen_end"]
    if end["estimate"] is None or frozen["estimate"] is None:
        return []
    if report["frozen_serves_at_end"]:
        return ["No version was promoted after the drift, so the two are one and the same student."]
    if end["high"] < frozen["low"]:
        return ["On this run learning did harm: the frozen student was better."]
    if end["low"] <= frozen["high"]:
        return ["On this run the two can't be told apart: their intervals overlap."]
    return []


def title(report: dict[str, Any]) -> str:
    """Return the picture's title."""
    asked = f"{report['teacher_calls_ratio']:.0%} of requests asked of the teacher"
    return f"everstill demo {report['recipe']}: {_count(report['promotions'], 'promotion')}, {asked}"


def _count(num: int, noun: str) -> str:
    return f"{num:,} {noun}" + ("" if num == 1 else "s")


def _share(estimate: dict[str, Any]) -> str:
    if estimate["estimate"] is None:
        return "no requests"
    return f"{estimate['estimate']:.1%} [{estimate['low']:.1%}, {estimate['high']:.1%}]"
