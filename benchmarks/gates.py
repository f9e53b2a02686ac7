"""The product's gate against rules in use elsewhere: false promotions for each 1,000 refreshes, harm, power, requests and teacher calls.

Simulated refreshes: half change nothing, a quarter are worse by .5 to 2 points, a quarter better by as much; the students differ on 5% of requests, and
up to 20,000 requests are looked at. Every rule sees the same ones, and asks the teacher only where the students differ, as the
product does. Then one real drifting stream (nsl_kdd, where EVERSTILL_DATA leads to it): the same learner under each rule.
"""

import collections
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from benchmarks import gate_real, harness
from benchmarks.gate_rules import RULES, Decides, gate
from benchmarks.harness import Check, Options, Result
from distill_loop.gates.evidence import Floats
from distill_loop.gates.rule import Rule, alpha_of_refresh
from everstill.recipes.recipe import DATA_VARIABLE
from tests.support.gate_streams import Ints, advantages

LENGTH, DIFFERING = 20_000, 0.05
#: Refreshes that are drawn and judged together, and lives of the regulated mode that go on beside each other.
LOT, LIVES = 250, 20
FDR = 0.10
OWN = "everstill"


def measure(options: Options) -> Result:
    """Simulate, run the real stream, and judge both."""
    num = 1_000 if options.quick else 10_000
    figures: dict[str, Any] = {"refreshes": num, "requests_at_most": LENGTH, "differing": DIFFERING}
    figures["simulated"] = simulate(options.seed, num)
    figures["simulated"]["everstill_regulated"] = regulated(options.seed, num)
    real = measure_real(options)
    if real:
        figures["nsl_kdd"] = real
    return Result(figures, checks_of(figures))


def draw_refreshes(rng: np.random.Generator, num: int) -> Floats:
    """Return the true advantages of refreshes."""
    sizes, kinds = rng.uniform(0.005, 0.02, num), rng.random(num)
    return np.where(kinds < 0.5, 0.0, np.where(kinds < 0.75, -sizes, sizes))


def draw_trials(rng: np.random.Generator, truth: Floats) -> Ints:
    """Return the trials of refreshes with these true advantages."""
    return advantages(rng, (DIFFERING + truth) / 2, (DIFFERING - truth) / 2, len(truth), LENGTH)


def simulate(seed: int, num: int) -> dict[str, Any]:
    """Return each rule's figures."""
    rng = np.random.default_rng(seed)
    sums: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in RULES}
    for done in range(0, num, LOT):
        truth = draw_refreshes(rng, LOT)
        drawn = draw_trials(rng, truth)
        for name, decides in RULES.items():
            count(sums[name], decides, drawn, truth)
        harness.say(f"simulated {done + LOT:,} of {num:,} refreshes")
    return {name: shown(counted) for name, counted in sums.items()}


def regulated(seed: int, num: int) -> dict[str, Any]:
    """Return the figures of regulated refreshes: lives beside each other, each with its own history."""
    rng = np.random.default_rng(seed + 1)
    counted: collections.Counter[str] = collections.Counter()
    promotions = np.zeros(LIVES, np.int64)
    for number in range(1, num // LIVES + 1):
        alphas = np.array(
            [
                alpha_of_refresh("regulated", alpha=0.01, fdr=FDR, number=number, promotions=int(before))
                for before in promotions
            ]
        )
        truth = draw_refreshes(rng, LIVES)
        promotions += count(counted, gate(Rule(), alphas), draw_trials(rng, truth), truth)
    figures = shown(counted)
    figures["lives"] = LIVES
    figures["false_share"] = counted["false"] / max(counted["promoted"], 1)
    return figures


def count(sums: "collections.Counter[str]", decides: Decides, drawn: Ints, truth: Floats) -> Ints:
    """Add what a rule made of trials to its sums; returns whether each was promoted, as 0 or 1."""
    ends = decides(drawn)
    promoted = ends.promoted
    asked = np.cumsum(drawn != 0, axis=1)[np.arange(len(drawn)), ends.requests - 1]
    sums["refreshes"] += len(truth)
    sums["promoted"] += int(promoted.sum())
    sums["false"] += int((promoted & (truth <= 0)).sum())
    sums["harmful"] += int((promoted & (truth < 0)).sum())
    sums["better"] += int((truth > 0).sum())
    sums["found"] += int((promoted & (truth > 0)).sum())
    sums["requests"] += int(ends.requests.sum())
    sums["calls"] += int(asked.sum())
    sums["lost"] += float(-truth[promoted & (truth < 0)].sum())  # type: ignore[assignment]
    return promoted.astype(np.int64)


def shown(sums: "collections.Counter[str]") -> dict[str, Any]:
    """Return a rule's figures. lost_points: agreement that harmful promotions cost, in percentage points over 1,000 refreshes."""
    num = sums["refreshes"]
    return {
        "false_per_1000": 1_000 * sums["false"] / num,
        "harmful_per_1000": 1_000 * sums["harmful"] / num,
        "lost_points_per_1000": 100_000 * sums["lost"] / num,
        "power": sums["found"] / max(sums["better"], 1),
        "mean_requests": sums["requests"] / num,
        "mean_teacher_calls": sums["calls"] / num,
    }


def measure_real(options: Options) -> dict[str, Any]:
    """Return each rule's figures on the real stream, sums over seeds; empty where its data isn't at hand."""
    if not (pathlib.Path(os.environ.get(DATA_VARIABLE, "-")) / "nsl_kdd").is_dir():
        harness.say(f"nsl_kdd: left out, {DATA_VARIABLE} doesn't lead to its data")
        return {}
    seeds = range(options.seed, options.seed + (1 if options.quick else 5))
    with tempfile.TemporaryDirectory(prefix="everstill-gates-") as folder:
        stream = gate_real.load(pathlib.Path(folder), 28_587)
    figures = {}
    for name, decides in RULES.items():
        runs = [gate_real.Service(stream, decides, seed, makes_room=name == OWN).run() for seed in seeds]
        harness.say(f"nsl_kdd under {name}: {runs[-1]}")
        total = {key: sum(one[key] for one in runs) for key in runs[0]}
        for mean in ("agreement", "teacher_calls_ratio"):
            total[mean] /= len(runs)
        figures[name] = {**total, "false_per_1000": 1_000 * total["false_promotions"] / max(total["refreshes"], 1)}
    return {"seeds": list(seeds), "requests": len(stream), **figures}


def checks_of(figures: dict[str, Any]) -> list[Check]:
    """Return what is promised: the bound of alpha, and what it is worth beside the others."""
    simulated = figures["simulated"]
    own, other = simulated["everstill"], simulated["better_on_last_1000"]
    checks = [
        Check("false_per_1000", own["false_per_1000"], "<=", 10.0),
        Check("harmful_per_1000", own["harmful_per_1000"], "<=", 1.0),
        Check("power", own["power"], ">=", 0.9),
        Check("last_1000_false_over_own", other["false_per_1000"] / max(own["false_per_1000"], 0.1), ">=", 20.0),
        Check("regulated_false_share", simulated["everstill_regulated"]["false_share"], "<=", FDR),
    ]
    if "nsl_kdd" in figures:
        real = figures["nsl_kdd"]
        ratio = real["everstill"]["false_promotions"] / max(real["better_on_last_1000"]["false_promotions"], 1)
        checks.append(Check("nsl_kdd_false_promotions_of_last_1000s", ratio, "<=", 0.2))
    return checks


if __name__ == "__main__":
    raise SystemExit(harness.main("gates", __doc__, measure))
