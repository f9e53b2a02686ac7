"""The promise of a trial: from which pairs it is read, when no opinion is had, and that it is part of the checkpoint."""

import collections
import math
import statistics

import numpy as np
import pytest

from distill_loop.gates.evidence import Counters, log_evidence
from distill_loop.gates.promise import FRESH_ROWS, LEAST_ROWS, Outlook, Promise, is_overtaken
from distill_loop.gates.verdict import Rule


def noted(wins: int, losses: int, ties: int, version: str = "v1") -> Promise:
    promise = Promise()
    for won, number in ((True, wins), (False, losses)):
        for _ in range(number):
            promise.observe(version, learner_right=won, served_right=not won)
    for _ in range(ties):
        promise.observe(version, learner_right=True, served_right=True)
    return promise


@pytest.mark.parametrize(
    ("wins", "losses", "ties", "promising"),
    [
        (0, 0, LEAST_ROWS, False),  # nearly the same student
        (3, 3, 30, False),
        (2, 4, 30, False),
        (3, 2, 30, True),
        (0, 3, LEAST_ROWS - 4, True),  # too few rows to say
    ],
)
def test_a_trial_is_promising_where_wins_outnumber_losses(wins: int, losses: int, ties: int, promising: bool) -> None:
    outlook = noted(wins, losses, ties).outlook("v1")

    assert (outlook.wins, outlook.losses, outlook.num) == (wins, losses, wins + losses + ties)
    assert outlook.promising == promising


def test_the_newest_pairs_alone_count_so_old_losses_are_soon_out_of_sight() -> None:
    promise = noted(0, 200, 0)

    for _ in range(FRESH_ROWS):
        promise.observe("v1", learner_right=True, served_right=False)

    assert promise.outlook("v1") == Outlook(FRESH_ROWS, 0, FRESH_ROWS)


def test_another_served_version_begins_anew() -> None:
    promise = noted(20, 0, 0)

    assert promise.outlook("v2") == Outlook(0, 0, 0)
    promise.observe("v2", learner_right=False, served_right=True)
    assert promise.outlook("v2") == Outlook(0, 1, 1)
    assert promise.outlook("v1") == Outlook(0, 0, 0)


def test_a_restart_keeps_what_was_seen() -> None:
    restarted = Promise()
    restarted.load_state_dict(noted(4, 2, 9).state_dict())

    assert restarted.outlook("v1") == Outlook(4, 2, 15)


def test_outlooks_of_different_rows_add_up() -> None:
    assert Outlook(1, 2, 5) + Outlook(3, 0, 7) == Outlook(4, 2, 12)


RULE = Rule(alpha=0.01, max_rows=20_000)


@pytest.mark.parametrize(
    ("trial", "fresh", "overtaken"),
    [
        (Counters(10, 10, 2000), Outlook(20, 2, 64), True),  # a drift: the open trial leads nowhere
        (Counters(0, 0, 150), Outlook(20, 2, 64), True),
        (Counters(0, 0, 8), Outlook(20, 2, 64), False),  # it had no chance yet
        (Counters(30, 5, 400), Outlook(20, 2, 64), False),  # nearly decided
        (Counters(10, 10, 2000), Outlook(3, 2, 64), False),  # may be chance
        (Counters(10, 10, 2000), Outlook(9, 2, 64), False),
        (Counters(10, 10, 2000), Outlook(0, 0, 64), False),
        (Counters(10, 10, 2000), Outlook(8, 0, LEAST_ROWS - 1), False),  # too few rows to say
        (Counters(10, 10, 19_990), Outlook(20, 2, 64), False),  # at its end anyway
    ],
)
def test_a_trial_makes_room_only_for_a_learner_that_is_far_ahead(
    trial: Counters, fresh: Outlook, overtaken: bool
) -> None:
    assert is_overtaken(RULE, trial, fresh) == overtaken


def requests_to_promotion(win: float, loss: float, seed: int, *, makes_room: bool) -> tuple[int, int]:
    """Simulate trials until one promotes, of a learner exactly as good as each candidate; return requests, and trials that made room.

    Of the requests a tenth are uniform-arm pairs, and the trial takes the share whose disagreement is 5% of all, as the desk has it.
    """
    rng = np.random.default_rng(seed)
    fresh: collections.deque[int] = collections.deque(maxlen=FRESH_ROWS)
    requests = num_made_room = num_pairs = 0
    counted = Counters(0, 0, 0)
    while log_evidence(counted, 0.0) < -math.log(RULE.alpha):
        requests += 10
        num_pairs += 1
        rows = rng.choice([1, -1, 0], 11, p=[win, loss, 1 - win - loss])
        fresh.append(rows[0])
        taken = rows[1:][rng.random(10) < 0.05 / (win + loss)]
        counted += Counters(int((taken > 0).sum()), int((taken < 0).sum()), len(taken))
        if makes_room and num_pairs % 64 == 0:
            outlook = Outlook(fresh.count(1), fresh.count(-1), len(fresh))
            if is_overtaken(RULE, counted, outlook):
                counted, num_pairs, num_made_room = Counters(0, 0, 0), 0, num_made_room + 1
    return requests, num_made_room


@pytest.mark.parametrize(("win", "loss"), [(0.03, 0.02), (0.06, 0.04)])
def test_a_learner_no_better_than_the_candidate_hardly_ever_takes_its_place(win: float, loss: float) -> None:
    plain = [requests_to_promotion(win, loss, seed, makes_room=False)[0] for seed in range(25)]
    both = [requests_to_promotion(win, loss, seed, makes_room=True) for seed in range(25)]

    assert statistics.median(requests for requests, _ in both) <= 1.15 * statistics.median(plain)
    assert sum(num for _, num in both) <= 5
