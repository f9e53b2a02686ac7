"""The word to stop is never lost, whenever the signal comes."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from registry.stopping import Stopping

PROGRAM = """
import signal
from registry import stopping
stopping.WAKE_S = 1e-5  # so that the signal meets every moment of the wait
word = stopping.Stopping(signal.SIGTERM)
print(flush=True)
word.wait()
"""


def test_the_word_of_another_thread_reaches_the_main_thread_and_the_event() -> None:
    stopping = Stopping()
    threading.Timer(0.05, stopping.tell).start()

    stopping.wait()

    assert stopping.event.is_set()


def test_a_main_thread_that_has_work_asks_now_and_then() -> None:
    stopping = Stopping()
    assert not stopping.heard()
    assert not stopping.heard(0.001)

    threading.Timer(0.05, stopping.tell).start()

    assert stopping.heard(20.0)
    assert stopping.heard()


@pytest.mark.slow
def test_a_signal_at_any_moment_of_the_wait_is_heard() -> None:
    for _ in range(100):
        with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, env=os.environ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
