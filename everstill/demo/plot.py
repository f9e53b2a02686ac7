"""The demo's picture: agreement over requests, the service against the student that was frozen at the drift."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from everstill.demo.score import TEACHER_VERSION, Scores, Sent, rolling

#: Requests that a mean is of; in a long stream more, so that there are about WINDOWS of them.
WINDOW, WINDOWS = 100, 60
#: More versions than this are marked, not named.
MOST_NAMES = 9
#: Requests that a mean needs: one of three says nothing.
FEWEST = 25
#: Okabe and Ito's colours, which colour-blind readers tell apart.
SERVICE, FROZEN, SWAP, DRIFT = "#0072B2", "#D55E00", "#009E73", "#444444"


def plot(path: pathlib.Path, sent: Sequence[Sent], scores: Scores, report: Mapping[str, Any], title: str) -> None:
    """Draw the picture of a report as a PNG."""
    drifts, versions = report["drifts_at_requests"], report["versions"]
    served, frozen = lines(sent, scores, drifts[0])
    window = max(WINDOW, round(len(sent) / WINDOWS / 50) * 50)
    figure = Figure(figsize=(11, 5.2), dpi=120)
    axes = figure.subplots()
    axes.plot(rolling(served, window, FEWEST), color=SERVICE, linewidth=2, label="everstill: the version that served")
    axes.plot(
        range(drifts[0], len(frozen)),
        rolling(frozen, window, FEWEST)[drifts[0] :],
        color=FROZEN,
        linewidth=2,
        linestyle="--",
        label="the student frozen at the drift",
    )
    for number, drift in enumerate(drifts):
        axes.axvline(drift, color=DRIFT, linewidth=1.5, linestyle=":")
        if not number:
            axes.annotate("drift", (drift, 1.03), ha="center", color=DRIFT, annotation_clip=False)
    if versions and (versions[0]["first_request"] or 0) > len(sent) / 10:  # else there is no room to say it
        axes.annotate(
            "the teacher\nanswers", (versions[0]["first_request"] / 2, 0.9), ha="center", fontsize=8, color=DRIFT
        )
    _mark_versions(axes, versions)
    _mark_trial(axes, report["open_trial"], len(sent))
    axes.set(
        xlim=(0, len(sent)),
        ylim=(0, 1.02),
        xlabel="request",
        ylabel=f"agreement with the teacher, mean of {window} requests",
    )
    axes.set_title(title, loc="left", fontsize=11, pad=22)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=2, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def lines(sent: Sequence[Sent], scores: Scores, drift: int) -> tuple[list[float], list[float]]:
    """Return what each request adds to the two curves: 1 where the answer agrees with the teacher, 0 where not, NaN where nobody's.

    Up to the drift the frozen student is the service itself, so its curve begins with the same window.
    """
    # The teacher agrees with itself: while it answers alone there is no student to show.
    served = [
        float("nan")
        if one.error or one.version == TEACHER_VERSION
        else float(one.top_class == scores.teacher[one.index])
        for one in sent
    ]
    frozen = [
        float("nan") if top < 0 else float(top == teacher)
        for top, teacher in zip(scores.frozen[drift:], scores.teacher[drift:], strict=True)
    ]
    return served, [*served[:drift], *frozen]


def _mark_versions(axes: Axes, versions: Sequence[Mapping[str, Any]]) -> None:
    """Mark where each version gave its first answer; many swaps are marked without their names."""
    shown = [version for version in versions if version["first_request"] is not None]
    for level, version in enumerate(shown):
        axes.axvline(version["first_request"], color=SWAP, linewidth=1, alpha=0.7)
        name = f"swap to {version['version'][:6]}" if len(shown) <= MOST_NAMES else "a swap" * (level == 1)
        if version["kind"] == "bootstrap":
            name = "first version"
        axes.annotate(
            name,
            (version["first_request"], 0.02 + 0.04 * (level % 3)),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8,
            color=SWAP,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )


def _mark_trial(axes: Axes, trial: Mapping[str, Any] | None, end: int) -> None:
    """Shade the time of the trial that was open at the end."""
    if trial is None or trial["first_request"] is None:
        return
    axes.axvspan(trial["first_request"], end, color=SWAP, alpha=0.08, linewidth=0)
    counts = f"a trial is open: {trial['wins']} wins, {trial['losses']} losses in {trial['total']}"
    axes.annotate(counts, (end, 0.96), ha="right", fontsize=8, color=SWAP)
