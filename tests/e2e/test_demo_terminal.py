"""The demo in a real terminal: the table is drawn in place, and Ctrl-C on the keyboard ends it and gives the cursor back."""

import fcntl
import os
import pathlib
import struct
import subprocess
import termios
import threading

import pytest

from tests.support import processes
from tests.support.everstill_command import COMMAND, environment
from tests.support.waiting import wait_for

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Screen:
    """The terminal's other end: everything that was written to it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        return self._seen.decode(errors="replace")

    def close(self) -> None:
        """Wait until nobody writes any more."""
        self._reader.join(10)
        os.close(self._descriptor)

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._descriptor, 4096)
            except OSError:  # the last writer has closed its end
                return
            if not part:
                return
            self._seen += part


@pytest.mark.timeout(180)
def test_ctrl_c_on_the_keyboard_ends_the_demo_and_gives_the_cursor_back(tmp_path: pathlib.Path) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, "demo", "--requests", "200", "--requests-per-s", "20"],
        cwd=tmp_path,
        env={**environment(), "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    screen = Screen(ours)
    try:
        wait_for(lambda: "teacher calls" in screen.text, deadline_s=120, what="the table")

        os.write(ours, b"\x03")

        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
        screen.close()
    assert "of requests" in screen.text
    assert "interrupted: every process was stopped" in screen.text
    assert "Traceback" not in screen.text
    assert screen.text.rfind(SHOW_CURSOR) > screen.text.rfind(HIDE_CURSOR) >= 0
    assert processes.left_behind() == {}
