"""The recipe filetypes: what the teacher reads of a file, real files capped and made kinds distinct, the same for the same seed."""

import gzip
import pathlib
import sqlite3
import sysconfig
import tarfile
import zipfile
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstill.recipes import filetypes
from everstill.recipes.kinds import MAKERS
from protos.errors import UnavailableError

SOURCE = pathlib.Path(filetypes.__file__).read_bytes()
MAGIC = {
    "gzip": b"\x1f\x8b", "tar.gz": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0", "zip": b"PK\3\4", "png": b"\x89PNG\r\n\x1a\n",
    "sqlite": b"SQLite format 3\0", "wav": b"RIFF", "pickle": b"\x80", "html": b"<!DOCTYPE html>", "email": b"Subject: file",
}  # fmt: skip


def python_of(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, *, num_files: int) -> None:
    """Let this Python's folders be one folder with a few sources and nothing else."""
    for number in range(num_files):
        (folder / f"module_{number}.py").write_text(f"'''Module {number}.'''\n" + f"value_{number} = {number}\n" * 9)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder))


def test_a_short_content_loses_outer_white_space_and_is_padded_towards_the_middle() -> None:
    window = filetypes.features(b" \nab \n")[0]

    assert bytes(window[:4].tolist()) == b"ab \n"
    assert bytes(window[-4:].tolist()) == b" \nab"
    assert set(window[4:-4].tolist()) == {filetypes.PADDING}


@given(st.binary(max_size=6000))
def test_any_content_becomes_a_window_of_bytes_or_padding(content: bytes) -> None:
    window = filetypes.features(content)

    assert (window.shape, window.dtype) == ((1, 2048), np.int32)
    assert window.min() >= 0
    assert window.max() <= filetypes.PADDING
    head, tail = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    assert window[0, : len(head)].tolist() == list(head)
    assert window[0, 2048 - len(tail) :].tolist() == list(tail)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_maker_makes_the_same_of_the_same_and_something_else_of_another_number(kind: str) -> None:
    made = [MAKERS[kind](SOURCE, number) for number in (4, 4, 5)]

    assert made[0] == made[1]
    assert made[0] != made[2]
    assert made[0].startswith(MAGIC.get(kind, b""))


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("content", [b"", b"\0\xff\x80" * 50, "mötley ]]> %s ${x}\n=\n[\n".encode() * 9])
def test_a_maker_takes_any_content(kind: str, content: bytes) -> None:
    assert isinstance(MAKERS[kind](content, 1), bytes)


def test_made_archives_and_databases_can_be_read_back() -> None:
    with tarfile.open(fileobj=BytesIO(MAKERS["tar"](SOURCE, 3))) as archive:
        member = archive.extractfile("file-3")
        assert member is not None
        assert member.read() == SOURCE
    with zipfile.ZipFile(BytesIO(MAKERS["zip"](SOURCE, 3))) as zipped:
        assert zipped.read("file-3") == SOURCE
    assert gzip.decompress(MAKERS["gzip"](SOURCE, 3)) == SOURCE
    database = sqlite3.connect(":memory:")
    database.deserialize(MAKERS["sqlite"](SOURCE, 3))
    assert database.execute("SELECT count(*) FROM line").fetchone()[0] > 10
    database.close()


@pytest.fixture(scope="module")
def gathered() -> filetypes.Corpus:
    """The inputs of a short demo, from this machine."""
    return filetypes.collect(150, 250, seed=7)


def test_the_drift_comes_where_it_is_said(gathered: filetypes.Corpus) -> None:
    kinds = [item.kind for item in gathered.items]

    assert (len(kinds), gathered.drift) == (400, 150)
    assert not set(kinds[:150]) & set(MAKERS)
    assert sum(kind in MAKERS for kind in kinds[150:]) == 250 - int(250 * filetypes.OLD_SHARE)
    assert {kind for kind in kinds[150:] if kind in MAKERS} == set(MAKERS)


def test_no_input_comes_twice(gathered: filetypes.Corpus) -> None:
    assert len({item.features.tobytes() for item in gathered.items}) == len(gathered.items)


def test_the_same_seed_gives_the_same_inputs_and_another_one_others(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_of(tmp_path, monkeypatch, num_files=60)

    first, again, other = (filetypes.collect(40, 40, seed) for seed in (1, 1, 2))

    def bytes_of(one: filetypes.Corpus) -> list[bytes]:
        return [item.features.tobytes() for item in one.items]

    assert bytes_of(first) == bytes_of(again)
    assert bytes_of(first) != bytes_of(other)


def test_a_python_without_compiled_files_gets_them_compiled(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_of(tmp_path, monkeypatch, num_files=60)

    kinds = [item.kind for item in filetypes.collect(60, 40, 0).items[:60]]

    assert {".py", ".pyc"} == set(kinds)


def test_a_python_with_too_few_files_is_an_error_that_says_what_to_do(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_of(tmp_path, monkeypatch, num_files=3)

    with pytest.raises(UnavailableError, match=r"only \d+ \+ \d+ usable files.*--requests"):
        filetypes.collect(500, 500, 0)


def test_progress_is_told_for_both_phases() -> None:
    told: list[tuple[str, int]] = []

    filetypes.collect(120, 120, 0, lambda what, count: told.append((what, count)))

    assert told[0] == ("files of this Python", 100)
    assert ("files made from them", 102) in told
    assert told[-1] == ("more files of this Python", 18)


@pytest.mark.slow
def test_this_machine_has_enough_different_inputs_for_the_demo() -> None:
    gathered = filetypes.collect(1750, 1750, 0)

    assert len(gathered.items) >= 3300
    assert 1600 <= gathered.drift <= len(gathered.items) - 1600
