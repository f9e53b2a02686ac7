"""The guard that no test leaves a process behind finds what it should: children, and children whose parent is gone."""

import os
import signal
import subprocess
import sys

from tests.support.processes import end_left_behind, left_behind, shared
from tests.support.waiting import wait_for

SLEEP = "import time; time.sleep(600)"


def test_a_child_is_found_until_it_ends() -> None:
    child = subprocess.Popen([sys.executable, "-c", SLEEP])
    wait_for(lambda: child.pid in left_behind(), what="the child to be seen")

    child.kill()
    child.wait()

    assert child.pid not in left_behind()


def test_an_orphan_is_found_and_ended() -> None:
    program = f"""
import subprocess, sys
quiet = subprocess.DEVNULL
print(subprocess.Popen([sys.executable, "-c", {SLEEP!r}], stdout=quiet, stderr=quiet).pid)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    orphan = int(done.stdout)
    wait_for(lambda: orphan in left_behind(), what="the orphan to be seen")

    told = end_left_behind(grace_s=0.1)

    assert [line.split()[0] for line in told] == [str(orphan)]
    wait_for(lambda: orphan not in left_behind(), what="the orphan to be gone")


def test_a_shared_service_may_stay() -> None:
    child = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        with shared(child.pid):
            assert child.pid not in left_behind()
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
