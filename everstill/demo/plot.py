"""The demo's picture: agreement over requests, the service against the student that was frozen at the drift."""

import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from everstill.demo.score import TEACHER_VERSION, Scores, Sent, rolling

WINDOW = 100
#: Requests that a mean needs: one of three says nothing.
FEWEST = 25
#: Okabe and Ito's colours, which colour-blind readers tell apart.
SERVICE, FROZEN, SWAP, DRIFT = "#0072B2", "#D55E00", "#009E73", "#444444"


def plot(
    path: pathlib.Path, sent: Sequence[Sent], scores: Scores, drift: int, versions: Sequence[dict[str, Any]], title: str
) -> None:
    """Draw the picture as a PNG."""
    # The teacher agrees with itself: while it answers alone there is no student to show.
    agrees = [
        float("nan")
        if one.error or one.version == TEACHER_VERSION
        else float(one.top_class == scores.teacher[one.index])
        for one in sent
    ]
    frozen = [
        float("nan") if top < 0 else float(top == teacher)
        for top, teacher in zip(scores.frozen, scores.teacher, strict=True)
    ]
    figure = Figure(figsize=(11, 5.2), dpi=120)
    axes = figure.subplots()
    axes.plot(rolling(agrees, WINDOW, FEWEST), color=SERVICE, linewidth=2, label="everstill: the version that served")
    axes.plot(
        range(drift, len(frozen)),
        rolling(frozen[drift:], WINDOW, FEWEST),
        color=FROZEN,
        linewidth=2,
        linestyle="--",
        label="the student frozen at the drift",
    )
    axes.axvline(drift, color=DRIFT, linewidth=1.5, linestyle=":")
    axes.annotate("drift", (drift, 1.03), ha="center", color=DRIFT, annotation_clip=False)
    if versions and (versions[0]["first_request"] or 0) > len(sent) / 10:  # else there is no room to say it
        axes.annotate(
            "the teacher\nanswers", (versions[0]["first_request"] / 2, 0.9), ha="center", fontsize=8, color=DRIFT
        )
    level = 0
    for version in versions:
        first = version["first_request"]
        if first is None:
            continue
        axes.axvline(first, color=SWAP, linewidth=1, alpha=0.7)
        name = "first version" if version["kind"] == "bootstrap" else f"swap to {version['version'][:6]}"
        axes.annotate(
            name,
            (first, 0.02 + 0.04 * (level % 3)),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8,
            color=SWAP,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
        level += 1
    axes.set(
        xlim=(0, len(sent)),
        ylim=(0, 1.02),
        xlabel="request",
        ylabel=f"agreement with the teacher, mean of {WINDOW} requests",
    )
    axes.set_title(title, loc="left", fontsize=11, pad=22)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=2, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
