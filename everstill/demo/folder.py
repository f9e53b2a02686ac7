"""The demo's folder: its own for the length of a run, empty but for what an earlier demo left.

Decides what of a folder's content is a demo's and may go. Called by the story; one thread.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator

from protos.errors import ConflictError, UnavailableError

CONFIG_FILE, LOCK_FILE = "everstill.toml", ".demo.lock"
SUMMARY_FILE, PICTURE_FILE, LOG_FOLDER, MADE_FOLDER = "summary.json", "agreement.png", "logs", "made"
#: What an earlier demo may have left in the folder, and a new one removes.
OWN = (CONFIG_FILE, "registry", "cache", "capture", LOG_FOLDER, MADE_FOLDER, SUMMARY_FILE, PICTURE_FILE)


@contextlib.contextmanager
def own_folder(folder: pathlib.Path) -> Iterator[None]:
    """Take the folder for this run: empty but for what an earlier demo left, and nobody else's meanwhile."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = [
            path.name
            for path in folder.iterdir()
            if path.name not in (*OWN, LOCK_FILE) and not path.name.startswith("stream.sqlite")
        ]
        if strangers:
            raise ConflictError(
                f"{folder} holds {strangers[0]!r}, which no demo made", fix="Name another with --folder"
            )
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UnavailableError(
            f"cannot use the folder {folder}: {error.strerror}", fix="Name another with --folder"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"another demo is running in {folder}", fix="Wait for it, or name another with --folder"
            ) from None
        try:
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK_FILE:
                    path.unlink()
            yield
        finally:
            (folder / LOCK_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"the demo can't write to {folder}: {error.strerror}", fix="Make room, or name another with --folder"
        ) from None
    finally:
        os.close(lock)
