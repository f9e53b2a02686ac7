"""The circuit breaker's three states, on a clock that the test moves."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from serving.teacher.breaker import MAX_SPANS, CircuitBreaker

OPEN_S = 5.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock, failures: int = 3) -> CircuitBreaker:
    breaker = CircuitBreaker(failures, OPEN_S, clock)
    for _ in range(failures):
        assert breaker.allow()
        breaker.failed()
    return breaker


def test_it_opens_after_that_many_failures_in_a_row() -> None:
    breaker = CircuitBreaker(3, OPEN_S, Clock())

    allowed = []
    for _ in range(5):
        allowed.append(breaker.allow())
        if allowed[-1]:
            breaker.failed()

    assert allowed == [True, True, True, False, False]
    assert breaker.is_open


def test_a_success_between_starts_the_count_again() -> None:
    breaker = CircuitBreaker(2, OPEN_S, Clock())

    breaker.failed()
    breaker.succeeded()
    breaker.failed()

    assert breaker.allow()
    assert not breaker.is_open


def test_after_its_pause_one_call_is_let_through() -> None:
    breaker = opened(clock := Clock())

    clock.now += OPEN_S

    assert [breaker.allow() for _ in range(3)] == [True, False, False]


def test_after_its_pause_it_says_that_a_call_may_be_tried() -> None:
    breaker = opened(clock := Clock())
    assert breaker.is_open

    clock.now += OPEN_S

    assert not breaker.is_open


def test_a_failed_probe_opens_it_for_another_pause() -> None:
    breaker = opened(clock := Clock())
    clock.now += OPEN_S
    assert breaker.allow()

    breaker.failed()
    clock.now += OPEN_S / 2
    early = breaker.allow()
    clock.now += OPEN_S / 2

    assert not early
    assert breaker.allow()


def test_an_answered_probe_closes_it() -> None:
    breaker = opened(clock := Clock())
    clock.now += OPEN_S
    assert breaker.allow()

    breaker.succeeded()

    assert [breaker.allow() for _ in range(3)] == [True] * 3


def test_a_probe_that_was_not_made_leaves_the_next_one_free() -> None:
    breaker = opened(clock := Clock())
    clock.now += OPEN_S
    assert breaker.allow()

    breaker.abandoned()

    assert breaker.allow()


def test_it_remembers_from_when_to_when_no_call_was_answered() -> None:
    clock, seconds_ns = Clock(), 1_000_000_000
    breaker = CircuitBreaker(2, OPEN_S, clock, lambda: int(clock.now) * seconds_ns)
    assert breaker.spans == []

    for _ in range(3):  # two that open it, and a call after its pause that fails too
        assert breaker.allow()
        breaker.failed()
        clock.now += OPEN_S
    assert breaker.spans == [(105 * seconds_ns, 0)]
    breaker.succeeded()
    clock.now -= 50  # the clock is set back, and a span begins behind the last one all the same
    breaker.failed()
    breaker.failed()

    assert breaker.spans == [(105 * seconds_ns, 115 * seconds_ns), (105 * seconds_ns + 1, 0)]
    for _ in range(MAX_SPANS):
        breaker.succeeded()
        breaker.failed()
        breaker.failed()
    assert len(breaker.spans) == MAX_SPANS


def test_many_threads_get_one_probe() -> None:
    breaker = opened(clock := Clock())
    clock.now += OPEN_S
    together, allowed = threading.Barrier(8), []

    def ask() -> None:
        together.wait(10)
        allowed.append(breaker.allow())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert sum(allowed) == 1


@given(st.lists(st.sampled_from(["answered", "failed", "abandoned", "time"]), max_size=60))
def test_whatever_happens_a_call_is_allowed_again_once_the_pause_is_over(events: list[str]) -> None:
    breaker = CircuitBreaker(2, OPEN_S, clock := Clock())

    for event in events:
        if event == "time":
            clock.now += OPEN_S / 3
        elif breaker.allow():
            {"answered": breaker.succeeded, "failed": breaker.failed, "abandoned": breaker.abandoned}[event]()
    clock.now += OPEN_S

    assert breaker.allow()
