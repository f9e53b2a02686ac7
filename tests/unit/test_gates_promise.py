"""The promise of a trial: from which pairs it is read, when no opinion is had, and that it is part of the checkpoint."""

import math
import statistics

import numpy as np
import pytest

from distill_loop.gates.evidence import Counters, log_evidence
from distill_loop.gates.promise import FRESH_ROWS, LEAST_ROWS, Duel, Outlook, Promise, is_overtaken
from distill_loop.gates.rule import Rule


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
        (0, 0, LEAST_ROWS, True),  # a trial also asks the teacher where the two differ, which is learned from
        (2, 6, 30, True),  # it may still be better
        (2, 9, 30, False),  # clearly behind
        (0, 5, 30, False),
        (3, 2, 30, True),
        (0, 3, LEAST_ROWS - 4, True),  # too few rows to say
    ],
)
def test_a_trial_is_promising_unless_the_learner_is_clearly_behind(
    wins: int, losses: int, ties: int, promising: bool
) -> None:
    outlook = noted(wins, losses, ties).outlook("v1")

    assert (outlook.wins, outlook.losses, outlook.num) == (wins, losses, wins + losses + ties)
    assert outlook.promising == promising


def test_the_newest_pairs_alone_count_so_old_losses_are_soon_out_of_sight() -> None:
    promise = noted(0, 200, 0)

    for _ in range(FRESH_ROWS):
        promise.observe("v1", learner_right=True, served_right=False)

    assert promise.outlook("v1") == Outlook(FRESH_ROWS, 0, FRESH_ROWS)


def test_what_was_said_against_the_learner_holds_it_back_for_a_few_cuts_only() -> None:
    promise = noted(0, 4, 60)
    for _ in range(5):
        promise.observe("v1", learner_right=False, served_right=True)

    forgotten = 0
    while not promise.outlook("v1").promising:
        promise.forget()
        forgotten += 1

    assert 1 <= forgotten <= 3


def test_another_served_version_begins_anew() -> None:
    promise = noted(20, 0, 0)

    assert promise.outlook("v2") == Outlook(0, 0, 0)
    promise.observe("v2", learner_right=False, served_right=True)
    assert promise.outlook("v2") == Outlook(0, 1, 1)
    assert promise.outlook("v1") == Outlook(0, 0, 0)


def duels(learner_wins: int, candidate_wins: int, both: int, neither: int) -> Promise:
    """A trial's pairs on which the learner alone, the candidate alone, both or neither agree with the teacher; the served student never."""
    promise = Promise()
    for learner_right, candidate_right, num in (
        (True, False, learner_wins),
        (False, True, candidate_wins),
        (True, True, both),
        (False, False, neither),
    ):
        for _ in range(num):
            promise.observe_duel(
                "t-1", learner_right=learner_right, candidate_right=candidate_right, served_right=False
            )
    return promise


def test_a_duel_compares_learner_and_candidate_on_the_same_pairs() -> None:
    duel = duels(5, 2, 10, 3).duel("t-1")

    assert duel == Duel(learner=Outlook(15, 0, 20), candidate=Outlook(12, 0, 20), ahead=Outlook(5, 2, 20))
    assert duels(5, 2, 10, 3).duel("t-2") == Duel(*[Outlook(0, 0, 0)] * 3)


def test_a_promoted_candidate_is_known_from_its_trial() -> None:
    promise = duels(5, 2, 10, 3)

    promise.promoted("t-1", "v2")

    assert promise.outlook("v2") == Outlook(5, 2, 20)
    promise.promoted("t-0", "v3")  # its pairs were not seen here
    assert promise.outlook("v3") == Outlook(0, 0, 0)


def test_a_restart_keeps_what_was_seen() -> None:
    restarted, promise = Promise(), noted(4, 2, 9)
    promise.observe_duel("t-1", learner_right=True, candidate_right=False, served_right=False)
    restarted.load_state_dict(promise.state_dict())

    assert restarted.outlook("v1") == Outlook(4, 2, 15)
    assert restarted.duel("t-1") == promise.duel("t-1")


RULE = Rule(alpha=0.01, max_rows=20_000)


@pytest.mark.parametrize(
    ("trial", "answered", "pairs", "overtaken"),
    [
        (Counters(10, 10, 2000), 400, (12, 0, 4, 20), True),  # a drift: the open trial leads nowhere
        (Counters(0, 0, 8), 8, (12, 0, 0, 4), True),
        (Counters(0, 0, 8), 8, (12, 0, 0, 3), False),  # too few pairs to say
        (Counters(13, 0, 40), 20, (6, 0, 12, 2), False),  # ahead, but the open one is nearly decided
        (Counters(10, 10, 2000), 400, (3, 0, 4, 30), False),  # may be chance
        (Counters(10, 10, 2000), 400, (6, 3, 4, 30), False),
        (Counters(10, 10, 2000), 400, (0, 0, 20, 20), False),  # no better than the candidate
        (Counters(10, 10, 19_990), 400, (12, 0, 4, 20), False),  # at its end anyway
    ],
)
def test_a_trial_makes_room_only_for_a_learner_that_is_far_ahead(
    trial: Counters, answered: int, pairs: tuple[int, int, int, int], overtaken: bool
) -> None:
    assert is_overtaken(RULE, trial, answered, duels(*pairs).duel("t-1")) == overtaken


def requests_to_promotion(win: float, loss: float, seed: int, *, makes_room: bool) -> tuple[int, int]:
    """Simulate trials until one promotes, of a learner exactly as good as each candidate; return requests, and trials that made room.

    The served student is wrong on a fifth. The learner answers four in five requests as the candidate does, the others as well by
    chance. Of the requests a tenth are uniform-arm pairs, and the trial takes the share whose disagreement is 5% of all.
    """
    rng = np.random.default_rng(seed)
    promise = Promise()
    requests = num_made_room = num_pairs = num_answered = 0
    counted = Counters(0, 0, 0)
    while log_evidence(counted, 0.0) < -math.log(RULE.alpha):
        requests += 10
        served = rng.random(10) >= 0.2
        candidate = rng.random(10) < np.where(served, 1 - loss / 0.8, win / 0.2)
        learner = np.where(
            rng.random(10) < 0.8, candidate, rng.random(10) < np.where(served, 1 - loss / 0.8, win / 0.2)
        )
        advantage = candidate.astype(int) - served
        uniform, trial = np.arange(10) == 0, rng.random(10) < 0.05 / (win + loss)
        taken = advantage[uniform | trial]
        counted += Counters(int((taken > 0).sum()), int((taken < 0).sum()), len(taken))
        for row in np.flatnonzero(uniform | (trial & (advantage != 0))):
            num_pairs += 1
            num_answered += 1
            promise.observe_duel(
                f"t-{num_made_room}",
                learner_right=bool(learner[row]),
                candidate_right=bool(candidate[row]),
                served_right=bool(served[row]),
            )
        if makes_room and num_pairs >= 64:
            num_pairs = 0
            if is_overtaken(RULE, counted, num_answered, promise.duel(f"t-{num_made_room}")):
                counted, num_answered, num_made_room = Counters(0, 0, 0), 0, num_made_room + 1
    return requests, num_made_room


@pytest.mark.parametrize(("win", "loss"), [(0.03, 0.02), (0.06, 0.04)])
def test_a_learner_no_better_than_the_candidate_hardly_ever_takes_its_place(win: float, loss: float) -> None:
    plain = [requests_to_promotion(win, loss, seed, makes_room=False)[0] for seed in range(25)]
    both = [requests_to_promotion(win, loss, seed, makes_room=True) for seed in range(25)]

    assert statistics.median(requests for requests, _ in both) <= 1.15 * statistics.median(plain)
    assert sum(num for _, num in both) <= 10  # 100 runs of decision 0008: 11 and 17
