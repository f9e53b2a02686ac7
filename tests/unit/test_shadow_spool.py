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
from serving.shadow.spool import Spool

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, 1500), min_size=1, max_size=4)),
        st.tuples(st.just("take"), st.integers(1, 6)),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=40,
)


@pytest.fixture(autouse=True, scope="module")
def _no_sync() -> Iterator[None]:
    """Leave out the wait for the disk: no test here cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


class Keeper:
    """A spool, what it dropped, and a clock."""

    def __init__(self, folder: pathlib.Path, *, max_bytes: int = 2**20, retention_s: float = 100.0) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.retention_s = retention_s
        self.now = 1e9
        self.dropped: list[bytes] = []
        self.reasons: set[str] = set()
        self.spool = self.restart()

    def restart(self) -> Spool:
        """Open the folder anew, as after a crash."""
        self.spool = Spool(
            self.folder,
            max_bytes=self.max_bytes,
            retention_s=self.retention_s,
            on_dropped=self._drop,
            clock=lambda: self.now,
        )
        return self.spool

    def take_all(self) -> list[bytes]:
        """Take everything that is left."""
        taken = []
        while payloads := self.spool.peek(3):
            taken += payloads
            self.spool.take()
        return taken

    def bytes_on_disk(self) -> int:
        """Return the size of all segments."""
        return sum(path.stat().st_size for path in self.folder.glob("*.seg"))

    def _drop(self, payloads: list[bytes], reason: str) -> None:
        self.dropped += payloads
        self.reasons.add(reason)


def numbered(first: int, sizes: list[int]) -> list[bytes]:
    return [f"{number}:".encode() + bytes(size) for number, size in enumerate(sizes, first)]


def number_of(payload: bytes) -> int:
    return int(payload.split(b":")[0])


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_records_come_out_in_order_once_and_after_a_crash_at_least_once(steps: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(pathlib.Path(folder))
        appended = taken = 0  # numbers of the next record to append and to take
        restarted = False

        for name, value in [*steps, ("take", 10_000)]:
            if name == "append":
                keeper.spool.append(numbered(appended, value))
                appended += len(value)
            elif name == "restart":
                keeper.restart()
                restarted = True
            else:
                while numbers := [number_of(payload) for payload in keeper.spool.peek(value)]:
                    assert numbers[0] <= taken if restarted else numbers[0] == taken
                    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
                    taken, restarted = numbers[-1] + 1, False
                    keeper.spool.take()
                    if value < 10_000:
                        break

        assert taken == appended or restarted
        assert keeper.spool.num_bytes == keeper.bytes_on_disk() == 0
        assert not keeper.dropped


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3000), min_size=1, max_size=4), max_size=40))
def test_it_stays_within_its_bound_and_drops_the_oldest_and_counts_them(lots: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(pathlib.Path(folder), max_bytes=16_384)
        appended: list[bytes] = []

        for sizes in lots:
            payloads = numbered(len(appended), sizes)
            keeper.spool.append(payloads)
            appended += payloads
            assert keeper.bytes_on_disk() <= 16_384
            assert keeper.spool.num_bytes == keeper.bytes_on_disk()

        assert keeper.dropped + keeper.take_all() == appended
        assert keeper.reasons <= {"spool_full"}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_torn_end_costs_the_torn_record_only(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(pathlib.Path(folder))
        payloads = numbered(0, [10, 0, 300, 7])
        keeper.spool.append(payloads)
        (segment,) = keeper.folder.glob("*.seg")
        cut = data.draw(st.integers(0, segment.stat().st_size))
        os.truncate(segment, cut)

        keeper.restart()
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
        (segment,) = keeper.folder.glob("*.seg")
        raw = bytearray(segment.read_bytes())
        raw[place := data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        segment.write_bytes(raw)

        keeper.restart()

        assert keeper.take_all() == [
            payload for index, payload in enumerate(payloads) if ends(payloads)[index] <= place
        ]


def test_records_past_their_age_are_dropped_and_counted_once(tmp_path: pathlib.Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.spool.append([b"old 1", b"old 2"])
    keeper.now += 101
    keeper.spool.append([b"fresh"])

    assert keeper.spool.peek(10) == [b"fresh"]
    assert keeper.spool.peek(10) == [b"fresh"]

    assert keeper.dropped == [b"old 1", b"old 2"]
    assert keeper.reasons == {"too_old"}


def test_what_was_not_taken_is_given_again(tmp_path: pathlib.Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.spool.append([b"a", b"b", b"c"])

    assert keeper.spool.peek(2) == [b"a", b"b"]
    assert keeper.spool.peek(1) == [b"a"]
    keeper.spool.take()

    assert keeper.spool.peek(3) == [b"b", b"c"]


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
    assert keeper.restart().peek(1) == []


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
