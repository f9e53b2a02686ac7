"""The journal: the newest whole file counts, whatever was torn, and what is in flight comes back as it was."""

import errno
import os
import pathlib
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import UnavailableError
from registry.at_rest import AtRest, KeyMissing
from serving.shadow.journal import Journal
from serving.shadow.message import Message
from serving.shadow.spool import Spool

MESSAGES = [Message("pairs", 1, b"a\nb\0", 2, (("served", 2),)), Message("labels", 0, b"", 1, (("labels", 1),))]
KEY, OLD = bytes(range(32)), bytes(32)


@pytest.fixture
def journal(tmp_path: pathlib.Path) -> Journal:
    return Journal(tmp_path)


def test_a_new_journal_says_nothing(journal: Journal, tmp_path: pathlib.Path) -> None:
    assert (journal.state, journal.messages, journal.pairs) == (None, [], [])
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


def test_what_was_committed_last_comes_back(journal: Journal, tmp_path: pathlib.Path) -> None:
    for number in range(5):
        journal.commit({"number": number}, MESSAGES[: number % 3], [b"pair"] * number)

    again = Journal(tmp_path)

    assert (again.state, again.messages, again.pairs) == ({"number": 4}, MESSAGES[:1], [b"pair"] * 4)
    again.commit({"number": 5}, [], [], durable=True)
    assert Journal(tmp_path).state == {"number": 5}


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 3), st.booleans(), st.data())
def test_a_torn_file_leaves_the_commit_before_it(num_commits: int, cut: bool, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        journal = Journal(path)
        for number in range(1, num_commits + 1):
            journal.commit({"number": number}, MESSAGES, [b"pair"])
        newest = path / f"journal-{num_commits % 2}"
        size = 28 + len(f'{{"number":{num_commits}}}') + sum(5 + len(one.to_spool()) for one in MESSAGES) + 5 + 4
        place = data.draw(st.integers(0, size - 1))
        raw = bytearray(newest.read_bytes())
        newest.write_bytes(raw[:place] if cut else raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])

        again = Journal(path)

        assert again.state == ({"number": num_commits - 1} if num_commits > 1 else None)
        again.commit({"number": 9}, [], [])
        assert Journal(path).state == {"number": 9}


def test_a_full_disk_leaves_the_commit_before(
    journal: Journal, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.commit({"number": 1}, MESSAGES, [])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(UnavailableError, match="No space left"):
            journal.commit({"number": 2}, [], [])
    assert Journal(tmp_path).state == {"number": 1}

    journal.commit({"number": 2}, [], [])
    assert Journal(tmp_path).state == {"number": 2}


def test_with_a_key_what_is_in_flight_is_sealed(tmp_path: pathlib.Path) -> None:
    Journal(tmp_path, AtRest(OLD)).commit({}, [Message("pairs", 0, b"secret")], [b"secret"])

    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())
    assert Journal(tmp_path, AtRest(KEY, OLD)).pairs == [b"secret"]
    with pytest.raises(KeyMissing, match=r"at_rest\.previous_keys"):
        Journal(tmp_path, AtRest(KEY))


def test_a_folder_that_can_not_be_used_is_said_in_a_sentence(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UnavailableError, match="can't be used"):
        Journal(tmp_path / "file" / "m")


def test_the_names_of_new_files_outlast_a_power_cut(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = set[int]()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))

    Journal(tmp_path / "m")
    spool_folder = tmp_path / "m/spool"
    spool = Spool(spool_folder, max_bytes=2**20, retention_s=60)
    spool.append([b"a"])

    assert {(tmp_path / "m").stat().st_ino, spool_folder.stat().st_ino} <= synced
    synced.clear()
    spool.append([b"b"])
    assert spool_folder.stat().st_ino not in synced
