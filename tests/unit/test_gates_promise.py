"""The promise of a trial: from which pairs it is read, when no opinion is had, and that it is part of the checkpoint."""

import pytest

from distill_loop.gates.evidence import Counters
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
        (Counters(10, 10, 2000), Outlook(0, 0, 64), False),
        (Counters(10, 10, 2000), Outlook(8, 0, LEAST_ROWS - 1), False),  # too few rows to say
        (Counters(10, 10, 19_990), Outlook(20, 2, 64), False),  # at its end anyway
    ],
)
def test_a_trial_makes_room_only_for_a_learner_that_is_far_ahead(
    trial: Counters, fresh: Outlook, overtaken: bool
) -> None:
    assert is_overtaken(RULE, trial, fresh) == overtaken
