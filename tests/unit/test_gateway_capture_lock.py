"""The lock on a capture folder: one gateway at a time, and orphans of one that is gone are waited for."""

import os
import pathlib
import subprocess
import sys
import threading

import pytest

from protos.errors import ConflictError, UnavailableError
from serving.supervision.capture_lock import LOCK_FILE, lock


def test_a_folder_that_another_gateway_uses_is_refused_and_the_gateway_is_named(tmp_path: pathlib.Path) -> None:
    held = lock(tmp_path / "new", orphans_s=0.0)

    with pytest.raises(ConflictError, match=f"process {os.getpid()}") as caught:
        lock(tmp_path / "new", orphans_s=60.0)

    assert caught.value.exit_code == 5
    assert "capture.dir" in caught.value.fix
    os.close(held)


def test_a_folder_that_was_let_go_is_free(tmp_path: pathlib.Path) -> None:
    os.close(lock(tmp_path, orphans_s=0.0))

    os.close(lock(tmp_path, orphans_s=0.0))


def orphan(folder: pathlib.Path) -> "subprocess.Popen[bytes]":
    """Return a child that keeps the lock of a gateway that is gone: its number is nobody's."""
    held = lock(folder, orphans_s=0.0)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=(held,)
    )
    os.close(held)
    (folder / LOCK_FILE).write_text(str(2**31 - 1))
    return child


def test_orphans_of_a_gateway_that_is_gone_are_waited_for(tmp_path: pathlib.Path) -> None:
    with orphan(tmp_path) as child:
        assert child.stdin is not None
        threading.Timer(0.3, child.stdin.close).start()

        held = lock(tmp_path, orphans_s=30.0)

        assert (tmp_path / LOCK_FILE).read_text() == str(os.getpid())
        os.close(held)


def test_orphans_are_not_waited_for_for_ever(tmp_path: pathlib.Path) -> None:
    with orphan(tmp_path), pytest.raises(ConflictError):
        lock(tmp_path, orphans_s=0.2)


def test_a_folder_that_cannot_be_made_is_told_without_a_number(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UnavailableError, match="a file is in its place") as caught:
        lock(tmp_path / "file" / "below", orphans_s=0.0)

    assert "capture.dir" in caught.value.fix
