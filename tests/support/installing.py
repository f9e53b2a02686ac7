"""Programs of others that a slow test installs for itself, away from this project's environment and pins."""

import os
import pathlib
import shutil
import subprocess

import pytest


def made(command: list[str], folder: pathlib.Path, **environment: str) -> None:
    """Run a command that installs something, in a folder of the test's, or skip with its last words."""
    tool = shutil.which(command[0])
    if tool is None:
        pytest.skip(f"only on machines with {command[0]}")
    done = subprocess.run(
        [tool, *command[1:]],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"only on machines where `{' '.join(command)}` works: {done.stderr.strip().splitlines()[-1:]}")
