"""The client's pace: it waits for the first version and for a loop that is behind, counts the time, and loses patience."""

import pytest

from everstill.demo.pace import MAX_LAG, MAX_STEPS_DUE, MAX_WAITING_BYTES, PATIENCE_S, Pace
from everstill.demo.watch import View

SERVING = {"live": "a" * 12}


def view(*, live: bool = True, waiting_bytes: int = 0, **loop: float) -> View:
    return View(gateway=SERVING if live else {}, loop=dict(loop), waiting_bytes=waiting_bytes)


def test_before_the_first_version_only_the_requests_that_it_is_made_from_are_sent() -> None:
    pace = Pace(True, bootstrap_pairs=100)

    assert not pace.must_wait(99, view(live=False), 1.0)
    assert pace.must_wait(100, view(live=False), 1.0)
    assert not pace.must_wait(100, view(), 1.0)


@pytest.mark.parametrize(
    "behind",
    [
        view(lag=MAX_LAG + 1),
        view(steps_due=MAX_STEPS_DUE + 1),
        view(waiting_bytes=MAX_WAITING_BYTES + 1),
    ],
)
def test_the_client_waits_while_something_piles_up(behind: View) -> None:
    pace = Pace(True, bootstrap_pairs=100)

    assert pace.must_wait(500, behind, 10.0)
    assert pace.must_wait(500, behind, 12.0)
    assert not pace.must_wait(500, view(lag=1, steps_due=1.0), 13.5)
    assert pace.waited_s == 3.5


def test_the_client_waits_until_the_gateway_has_followed_what_the_loop_decided() -> None:
    pace = Pace(True, bootstrap_pairs=100)
    swapping = View(gateway=SERVING, loop={"live": "b" * 12})
    opening = View(gateway={**SERVING, "trial": None}, loop={"live": "a" * 12, "trial": {"trial_id": "t-b"}})
    running = View(gateway={**SERVING, "trial": "t-b"}, loop={"live": "a" * 12, "trial": {"trial_id": "t-b"}})

    assert pace.must_wait(500, swapping, 1.0)
    assert pace.must_wait(500, opening, 1.0)
    assert not pace.must_wait(500, running, 1.0)


def test_a_stream_at_its_own_pace_waits_for_nothing() -> None:
    pace = Pace(False, bootstrap_pairs=1)

    assert not pace.must_wait(500, view(live=False, lag=10_000), 10.0)
    assert pace.waited_s == 0.0


def test_after_a_wait_without_end_the_client_goes_on_and_waits_no_more() -> None:
    pace = Pace(True, bootstrap_pairs=1)
    pace.must_wait(5, view(live=False), 0.0)

    assert not pace.must_wait(5, view(live=False), PATIENCE_S + 1)
    assert not pace.must_wait(6, view(live=False), PATIENCE_S + 2)
    assert pace.waited_s == PATIENCE_S + 1
