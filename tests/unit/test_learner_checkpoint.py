"""A checkpoint is whole or it is refused, and nothing in it is ever executed."""

import hashlib
import io
import os
import pathlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_loop.learner.checkpoint import MAGIC, dump, load
from protos.errors import FormatError

STATE = {"weights": torch.arange(6.0).reshape(2, 3), "random": 2**127 - 1, "ids": [b"\x00\xff" * 8], "live": None}
DUMPED = dump(STATE)


class RunsCode:
    """Pickles as a call of os.mkdir."""

    def __init__(self, target: pathlib.Path) -> None:
        self._target = str(target)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self._target,)


def sign(body: bytes) -> bytes:
    return MAGIC + hashlib.sha256(body).digest() + body


def test_a_state_comes_back_as_it_was() -> None:
    back = load(DUMPED)

    assert torch.equal(back["weights"], STATE["weights"])
    assert {name: back[name] for name in ("random", "ids", "live")} == {
        name: STATE[name] for name in ("random", "ids", "live")
    }


@given(length=st.integers(0, len(DUMPED) - 1))
def test_a_torn_checkpoint_is_refused(length: int) -> None:
    with pytest.raises(FormatError, match="checkpoint"):
        load(DUMPED[:length])


@given(place=st.integers(0, len(DUMPED) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(place: int, bit: int) -> None:
    damaged = bytearray(DUMPED)
    damaged[place] ^= 1 << bit

    with pytest.raises(FormatError, match="checkpoint"):
        load(bytes(damaged))


def test_a_hostile_checkpoint_is_refused_and_not_executed(tmp_path: pathlib.Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weights": RunsCode(tmp_path / "ran")}, buffer)

    with pytest.raises(FormatError, match="can't be read"):
        load(sign(buffer.getvalue()))

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("body", [b"", b"not a zip", b"PK\x03\x04"])
def test_a_signed_file_that_is_no_checkpoint_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError, match="can't be read"):
        load(sign(body))
