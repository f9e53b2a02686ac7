"""Fixtures of several unit modules."""

import os
import pathlib
from collections.abc import Iterator

import pytest

from tests.support.shadow import Shadow


@pytest.fixture(scope="module")
def no_sync() -> Iterator[None]:
    """Leave out the wait for the disk: no test that uses this cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def shadow(tmp_path: pathlib.Path) -> Shadow:
    """Return a mirror among fakes."""
    return Shadow(tmp_path)
