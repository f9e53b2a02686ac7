"""The spool: a bounded queue on disk that a crash, a full disk or a torn file can't make forget what it was given."""

import errno
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import UnavailableError
from registry.at_rest import AtRest, KeyMissing
from serving.shadow.spool import Position, Spool

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, 1500), min_size=1, max_size=4)),
        st.tuples(st.just("take"), st.integers(1, 6)),
        st.tuples(st.sampled_from(["commit", "kill"]), st.none()),
    ),
    max_size=40,
)
KEY, OLD = bytes(range(32)), bytes(32)


@pytest.fixture(autouse=True, scope="module")
def _no_sync() -> Iterator[None]:
    """Leave out the wait for the disk: no test here cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


class Keeper:
    """A spool with its owner's journal, and a clock."""

    def __init__(
        self, folder: pathlib.Path, *, max_bytes: int = 2**20, retention_s: float = 100.0, keys: tuple[bytes, ...] = ()
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.retention_s = retention_s
        self.keys = keys
        self.now = 1e9
        self.committed: Position | None = None
        self.spool = self.restart()

    def commit(self) -> None:
        """Commit the position, and clear what was taken."""
        self.committed = self.spool.position
        self.spool.clear()

    def restart(self, *, position: bool = True) -> Spool:
        """Open the folder anew, as after a crash, from the committed position."""
        self.spool = Spool(
            self.folder,
            max_bytes=self.max_bytes,
            retention_s=self.retention_s,
            position=self.committed if position else None,
            at_rest=AtRest(*self.keys),
            clock=lambda: self.now,
        )
        return self.spool

    def append(self, payloads: list[bytes]) -> list[bytes]:
        """Append as the owner does; returns what was dropped for it."""
        dropped = []
        while not self.spool.has_room(payloads):
            dropped += self.spool.peek_segment()
            self.spool.take()
            self.commit()
        self.spool.append(payloads)
        return dropped

    def take_all(self) -> list[bytes]:
        """Take everything that is left."""
        taken = []
        while payloads := self.spool.peek(3):
            taken += payloads
            self.spool.take()
        self.commit()
        return taken

    def bytes_on_disk(self) -> int:
        """Return the size of all segments."""
        return sum(path.stat().st_size for path in self.folder.glob("*.seg"))


def numbered(first: int, sizes: list[int]) -> list[bytes]:
    return [f"{number}:".encode() + bytes(size) for number, size in enumerate(sizes, first)]


def number_of(payload: bytes) -> int:
    return int(payload.split(b":")[0])


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_it_is_what_was_committed_whatever_was_appended_and_taken_before_a_kill(steps: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(pathlib.Path(folder), max_bytes=16 * 4096)
        keeper.commit()
        held: list[bytes] = []
        committed: list[bytes] = []
        number = 0

        for name, value in steps:
            if name == "append":
                payloads = numbered(number, value)
                number += len(payloads)
                keeper.spool.append(payloads)
                held = held + payloads
            elif name == "take":
                peeked = keeper.spool.peek(value)
                assert peeked == held[: len(peeked)]
                assert bool(peeked) == bool(held)
                keeper.spool.take()
                held = held[len(peeked) :]
            elif name == "commit":
                keeper.commit()
                committed = held
            else:
                keeper.restart()
                held = committed

        assert keeper.spool.is_empty == (not held)
        assert keeper.take_all() == held
        assert keeper.spool.num_bytes == keeper.bytes_on_disk() == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3000), min_size=1, max_size=4), max_size=40))
def test_it_stays_within_its_bound_and_gives_up_the_oldest(lots: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(pathlib.Path(folder), max_bytes=16_384)
        appended: list[bytes] = []
        dropped: list[bytes] = []

        for sizes in lots:
            payloads = numbered(len(appended), sizes)
            dropped += keeper.append(payloads)
            appended += payloads
            assert keeper.bytes_on_disk() <= 16_384 + 16 * 4
            assert keeper.spool.num_bytes == keeper.bytes_on_disk()

        assert dropped + keeper.take_all() == appended


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_torn_end_of_a_folder_that_no_journal_knows_costs_the_torn_record_only(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(pathlib.Path(folder))
        payloads = numbered(0, [10, 0, 300, 7])
        keeper.spool.append(payloads)
        (segment,) = keeper.folder.glob("*.seg")
        cut = data.draw(st.integers(0, segment.stat().st_size))
        os.truncate(segment, cut)

        keeper.restart(position=False)
        keeper.spool.append([b"later"])

        whole = [payload for place, payload in enumerate(payloads) if ends(payloads)[place] <= cut]
        assert keeper.take_all() == [*whole, b"later"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_byte_never_gives_a_wrong_record(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(pathlib.Path(folder))
        payloads = numbered(0, [10, 0, 300, 7])
        keeper.spool.append(payloads)
        keeper.commit()
        (segment,) = keeper.folder.glob("*.seg")
        raw = bytearray(segment.read_bytes())
        raw[place := data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        segment.write_bytes(raw)

        keeper.restart()

        assert keeper.take_all() == [
            payload for index, payload in enumerate(payloads) if ends(payloads)[index] <= place
        ]
        assert keeper.spool.is_empty


def test_a_segment_that_is_gone_costs_its_own_records_only(tmp_path: pathlib.Path) -> None:
    keeper = Keeper(tmp_path, max_bytes=16 * 4096)
    for number in range(3):
        keeper.spool.append(numbered(number, [4000]))
    keeper.commit()
    (tmp_path / "00000001.seg").unlink()

    keeper.restart()

    assert [number_of(payload) for payload in keeper.take_all()] == [0, 2]


def test_records_past_their_age_are_told_and_the_others_are_not(tmp_path: pathlib.Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.spool.append([b"old 1", b"old 2"])
    keeper.now += 101
    keeper.spool.append([b"fresh"])

    assert keeper.spool.peek_too_old() == [b"old 1", b"old 2"]
    keeper.spool.take()

    assert keeper.spool.peek_too_old() is None
    assert keeper.take_all() == [b"fresh"]


def test_what_was_not_taken_is_given_again(tmp_path: pathlib.Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.spool.append([b"a", b"b", b"c"])

    assert keeper.spool.peek(2) == [b"a", b"b"]
    assert keeper.spool.peek(1) == [b"a"]
    keeper.spool.take()

    assert keeper.spool.peek(3) == [b"b", b"c"]


def test_a_lot_is_bounded_in_bytes_and_never_empty(tmp_path: pathlib.Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.spool.append([bytes(100)] * 5)

    assert len(keeper.spool.peek(10, max_bytes=250)) == 3
    assert len(keeper.spool.peek(10, max_bytes=1)) == 1


def test_taking_twice_takes_once(tmp_path: pathlib.Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.spool.append([b"a"])
    keeper.spool.peek(1)
    keeper.spool.take()
    keeper.spool.append([b"b"])

    keeper.spool.take()

    assert keeper.spool.peek(1) == [b"b"]


def test_a_full_disk_keeps_nothing_of_a_lot_and_everything_before(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(tmp_path)
    keeper.spool.append([b"before"])
    write = os.write

    def half_then_full(descriptor: int, data: memoryview) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half_then_full)
        with pytest.raises(UnavailableError, match="No space left"):
            keeper.spool.append([b"lost 1" * 20, b"lost 2"])
    keeper.spool.append([b"after"])

    assert keeper.take_all() == [b"before", b"after"]


def test_with_a_key_nothing_is_readable_on_disk_and_an_older_key_still_reads(tmp_path: pathlib.Path) -> None:
    keeper = Keeper(tmp_path, keys=(OLD,))
    keeper.spool.append([b"secret 1"])
    keeper.commit()
    keeper.keys = (KEY, OLD)
    keeper.restart()
    keeper.spool.append([b"secret 2"])

    assert b"secret" not in (tmp_path / "00000000.seg").read_bytes()
    assert keeper.take_all() == [b"secret 1", b"secret 2"]


def test_records_whose_key_is_missing_wait_for_it(tmp_path: pathlib.Path) -> None:
    keeper = Keeper(tmp_path, keys=(OLD,))
    keeper.spool.append([b"secret"])
    keeper.commit()
    keeper.keys = (KEY,)

    with pytest.raises(KeyMissing):
        keeper.restart().peek(1)

    keeper.keys = (KEY, OLD)
    assert keeper.restart().peek(1) == [b"secret"]


def test_records_whose_key_is_missing_grow_old_like_the_others(tmp_path: pathlib.Path) -> None:
    keeper = Keeper(tmp_path, keys=(OLD,))
    keeper.spool.append([b"secret"])
    keeper.commit()
    keeper.keys = (KEY,)
    spool = keeper.restart()
    spool.append([b"readable"])
    assert spool.peek_too_old() is None

    keeper.now += keeper.retention_s + 1

    assert spool.peek_too_old() == [b"readable"]
    spool.take()
    assert spool.is_empty


def test_plain_records_stay_readable_when_a_key_comes(tmp_path: pathlib.Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.spool.append([b"plain"])
    keeper.commit()
    keeper.keys = (KEY,)

    assert keeper.restart().peek(1) == [b"plain"]


def test_files_that_are_not_segments_are_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.seg").write_bytes(b"mine")
    (tmp_path / "00000000.seg").touch()
    keeper = Keeper(tmp_path)

    keeper.spool.append([b"a"])

    assert keeper.take_all() == [b"a"]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.seg"]


def test_segments_are_their_owners_only(tmp_path: pathlib.Path) -> None:
    keeper = Keeper(tmp_path / "spool")
    keeper.spool.append([b"a"])

    (segment,) = keeper.folder.iterdir()

    assert segment.stat().st_mode & 0o077 == keeper.folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_can_not_be_made_is_said_in_a_sentence(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UnavailableError, match="can't be used"):
        Keeper(tmp_path / "file" / "spool")


def ends(payloads: list[bytes]) -> list[int]:
    """Return where each record ends in a segment that holds just these."""
    sizes = [16 + len(payload) for payload in payloads]
    return [sum(sizes[: place + 1]) for place in range(len(sizes))]
