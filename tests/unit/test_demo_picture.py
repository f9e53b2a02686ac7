"""The demo's picture: it can be drawn of any run, one without a student too."""

import pathlib
import struct
import zlib

import pytest

from everstill.demo.plot import plot
from everstill.demo.score import TEACHER_VERSION, Scores, Sent

VERSIONS = [
    {"version": "a" * 12, "kind": "bootstrap", "first_request": 40},
    {"version": "b" * 12, "kind": "promote", "first_request": 300},
    {"version": "c" * 12, "kind": "promote", "first_request": None},
]


def size_of(picture: pathlib.Path) -> tuple[int, int]:
    """Return width and height of a PNG, having checked its header."""
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert struct.unpack(">I", content[29:33])[0] == zlib.crc32(content[12:29])
    return width, height


@pytest.mark.parametrize("first_student", [40, 400])
def test_a_picture_is_drawn_whoever_answered(tmp_path: pathlib.Path, first_student: int) -> None:
    sent = [
        Sent(index, float(index), TEACHER_VERSION if index < first_student else "a" * 12, 1, 0.01)
        for index in range(400)
    ]
    sent[350] = Sent(350, 350.0, "", -1, 0.1, "UNAVAILABLE")
    versions = VERSIONS if first_student < 400 else []
    frozen = [-1] * 200 + [0] * 200 if versions else [-1] * 400

    plot(tmp_path / "picture.png", sent, Scores([1] * 400, frozen, []), 200, versions, "a title")

    width, height = size_of(tmp_path / "picture.png")
    assert width > 1000
    assert height > 500
