"""The demo's picture: it can be drawn of any run, one without a student too."""

import pathlib
import struct
import zlib

import pytest

from everstill.demo.plot import lines, plot
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

    trial = {"first_request": 350, "wins": 2, "losses": 1, "total": 30} if versions else None
    report = {"drifts_at_requests": [200, 300], "versions": versions, "open_trial": trial}
    plot(tmp_path / "picture.png", sent, Scores([1] * 400, frozen, []), report, "a title")

    width, height = size_of(tmp_path / "picture.png")
    assert width > 1000
    assert height > 500


def test_up_to_the_drift_the_frozen_student_s_curve_is_the_service_s() -> None:
    sent = [Sent(index, float(index), "a" * 12, int(index % 3 == 0), 0.01) for index in range(300)]

    served, frozen = lines(sent, Scores([1] * 300, [-1] * 200 + [1] * 100, []), 200)

    assert served[:200] == frozen[:200]
    assert frozen[200:] == [1.0] * 100


def test_many_swaps_and_a_long_stream_are_drawn_too(tmp_path: pathlib.Path) -> None:
    sent = [Sent(index, float(index), "a" * 12, 1, 0.01) for index in range(9000)]
    versions = [{"version": f"{place:012d}", "kind": "promote", "first_request": 600 * place} for place in range(14)]
    report = {"drifts_at_requests": [3000], "versions": versions, "open_trial": None}

    plot(tmp_path / "picture.png", sent, Scores([1] * 9000, [-1] * 3000 + [0] * 6000, []), report, "a title")

    assert size_of(tmp_path / "picture.png")[0] > 1000
