"""Becoming a room's process: the shell replaces itself, so that signals and exit code are the room's own.

Decides nothing. Called by commands that run for long, or that another room answers.
"""

import os
import pathlib
import sys
from typing import NoReturn

from everstill.options import config_path, models_of


def become(module: str, *arguments: str, config: pathlib.Path | None, model: str | None = None) -> None:
    """Check the whole file, then become the room's process."""
    models_of(config, model)
    path = config_path(config)
    file = ["--config", str(path)] if path else []
    replace([sys.executable, "-m", module, *arguments, *file, *(["--model", model] if model else [])])


def replace(command: list[str]) -> NoReturn:
    """Become this command."""
    sys.stdout.flush()
    os.execv(command[0], command)
