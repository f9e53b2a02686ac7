"""The demo's folder: its own for the length of a run, empty but for what an earlier demo left.

Decides what of a folder's content is a demo's and may go. Called by the story; one thread.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from protos.errors import ConflictError, UnavailableError
from registry.store import lock_file

CONFIG_FILE, LOCK_FILE = "everstill.toml", ".demo.lock"
SUMMARY_FILE, PICTURE_FILE, LOG_FOLDER, MADE_FOLDER = "summary.json", "agreement.png", "logs", "made"
#: What an earlier demo may have left in the folder, and a new one removes.
OWN = (CONFIG_FILE, "registry", "cache", "capture", LOG_FOLDER, MADE_FOLDER, SUMMARY_FILE, PICTURE_FILE)


@contextlib.contextmanager
def own_folder(folder: pathlib.Path) -> Iterator[None]:
    """Take the folder for this run: empty but for what an earlier demo left, and nobody else's meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if strangers := [path.name for path in folder.iterdir() if not _is_a_demos(path.name)]:
                raise ConflictError(
                    f"{folder} holds {strangers[0]!r}, which no demo made", fix="Name another with --folder"
                )
            stack.enter_context(lock_file(folder / LOCK_FILE, wait=False))
        except BlockingIOError:
            raise ConflictError(
                f"another demo is running in {folder}", fix="Wait for it, or name another with --folder"
            ) from None
        except OSError as error:
            raise UnavailableError(
                f"cannot use the folder {folder}: {error.strerror}", fix="Name another with --folder"
            ) from None
        stack.callback((folder / LOCK_FILE).unlink, missing_ok=True)
        try:
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK_FILE:
                    path.unlink()
            yield
        except OSError as error:
            raise UnavailableError(
                f"the demo can't write to {folder}: {error.strerror}", fix="Make room, or name another with --folder"
            ) from None


def _is_a_demos(name: str) -> bool:
    return name in (*OWN, LOCK_FILE) or name.startswith("stream.sqlite")
