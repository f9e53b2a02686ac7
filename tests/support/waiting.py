"""Waiting for a condition with a deadline, instead of sleeping for a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_for(condition: Callable[[], Value], *, deadline_s: float = 10.0, what: str = "a condition") -> Value:
    """Return the first truthy value of `condition`.

    Raises:
        TimeoutError: it stayed falsy for `deadline_s` seconds; the message names `what`.
    """
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline_s} s for {what}")
        time.sleep(0.02)
    return value
