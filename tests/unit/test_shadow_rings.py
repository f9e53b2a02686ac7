"""Several rings read as one: fairly, with sums that the budget can trust, and with those that more workers left."""

import functools
import pathlib

import pytest

from serving.config import TeacherSection
from serving.shadow.budget import Budget, allowed_rows
from serving.shadow.ring import Ring, create
from serving.shadow.rings import Rings, folder_of, path_of, prepare

CAPACITY = 2**16


class Room:
    """Rings of a folder, with the workers' ends of them."""

    def __init__(self, folder: pathlib.Path, num_workers: int) -> None:
        self.folder = folder
        for number in range(num_workers):
            create(path_of(folder, number), CAPACITY)
        self.workers = [Ring(path_of(folder, number)) for number in range(num_workers)]
        self.rings = Rings.open(folder)

    def append(self, worker: int, num_frames: int) -> None:
        for number in range(num_frames):
            assert self.workers[worker].append(f"{worker}/{number}".encode())

    def read(self, max_frames: int) -> list[str]:
        return [payload.decode() for _, payloads in self.rings.read(max_frames) for payload in payloads]


@pytest.fixture
def room(tmp_path: pathlib.Path) -> Room:
    return Room(tmp_path, 3)


def test_each_model_has_a_folder_and_each_worker_a_ring_in_it(tmp_path: pathlib.Path) -> None:
    assert path_of(folder_of(tmp_path, "m"), 2) == tmp_path / "m" / "ring-2.mmap"


def test_every_ring_gets_its_share_of_a_step(room: Room) -> None:
    for worker in range(3):
        room.append(worker, 10)

    taken = room.read(6)

    assert sorted(taken) == ["0/0", "0/1", "1/0", "1/1", "2/0", "2/1"]


def test_what_one_ring_leaves_goes_to_the_others(room: Room) -> None:
    room.append(1, 10)

    assert room.read(6) == [f"1/{number}" for number in range(6)]
    assert room.read(6) == [f"1/{number}" for number in range(6, 10)]
    assert room.read(6) == []


def test_a_step_of_fewer_frames_than_rings_takes_turns(room: Room) -> None:
    for worker in range(3):
        room.append(worker, 2)

    assert sorted(frame for _ in range(6) for frame in room.read(1)) == ["0/0", "0/1", "1/0", "1/1", "2/0", "2/1"]


def test_each_ring_keeps_its_order(room: Room) -> None:
    for worker in range(3):
        room.append(worker, 20)

    read = [frame for _ in range(10) for frame in room.read(7)]

    for worker in range(3):
        mine = [one for one in read if one.startswith(f"{worker}/")]
        assert mine == [f"{worker}/{number}" for number in range(20)]


def test_what_was_read_and_not_accepted_is_read_again_by_the_next(room: Room) -> None:
    for worker in range(3):
        room.append(worker, 2)
    room.read(2)
    room.rings.advance()
    room.read(2)

    again = Rings.open(room.folder)

    assert room.rings.pending_frames == 4
    assert num_read(again) == 4
    again.advance()
    assert not again.pending_bytes


def test_a_ring_that_more_workers_left_is_read_until_it_is_empty(tmp_path: pathlib.Path) -> None:
    Room(tmp_path, 4).append(3, 5)

    after = Rings.open(tmp_path)

    assert num_read(after) == 5
    after.advance()
    assert not after.pending_bytes
    assert [worker for worker, _ in after] == [0, 1, 2, 3]


def test_sums_are_over_all_rings(room: Room) -> None:
    for worker in range(3):
        room.workers[worker].count_seen(10 * (worker + 1))

    room.rings.teacher_rows += 7

    assert room.rings.rows_seen == 60
    assert room.rings.teacher_rows == 7
    assert Rings.open(room.folder).teacher_rows == 7


def test_a_count_is_given_back_also_where_the_first_ring_was_made_anew(room: Room) -> None:
    room.workers[2].teacher_rows = 5
    room.rings.teacher_rows += 1

    room.rings.teacher_rows -= 4

    assert room.rings.teacher_rows == 2
    assert [ring.teacher_rows for _, ring in room.rings] == [0, 0, 2]


def test_a_file_that_is_no_ring_is_passed_over(tmp_path: pathlib.Path) -> None:
    room = Room(tmp_path, 1)
    (tmp_path / "ring-7.mmap").write_bytes(b"torn")
    (tmp_path / "ring-x.mmap").write_bytes(b"another's")
    room.append(0, 1)

    assert num_read(Rings.open(tmp_path)) == 1


@pytest.mark.parametrize("loss", ["damaged", "gone", "another size"])
def test_the_cap_on_teacher_rows_survives_the_first_ring(tmp_path: pathlib.Path, loss: str) -> None:
    teacher = TeacherSection(budget_burst=1, budget_ratio=0.1, max_calls_per_s=1e6, max_batch=1)
    room, ring_bytes = Room(tmp_path, 4), CAPACITY
    for worker in room.workers:
        worker.count_seen(250)
    budget = Budget(teacher, room.rings)
    asked = sum(budget.reserve(1) for _ in range(1000))
    if loss == "damaged":
        path_of(tmp_path, 0).write_bytes(b"torn")
    elif loss == "gone":
        path_of(tmp_path, 0).unlink()
    else:
        ring_bytes *= 2

    prepare(tmp_path, 2, ring_bytes, functools.partial(allowed_rows, teacher))
    rings = Rings.open(tmp_path)
    again = Budget(teacher, rings)
    asked += sum(again.reserve(1) for _ in range(1000))
    assert asked == 101

    Ring(path_of(tmp_path, 1)).count_seen(100)
    assert sum(again.reserve(1) for _ in range(1000)) == 10


def test_the_first_rings_of_a_folder_owe_nothing(tmp_path: pathlib.Path) -> None:
    prepare(tmp_path, 2, CAPACITY, lambda rows_seen: 100.0)
    prepare(tmp_path, 3, CAPACITY, lambda rows_seen: 100.0)

    assert Rings.open(tmp_path).teacher_rows == 0


def num_read(rings: Rings) -> int:
    return sum(len(payloads) for _, payloads in rings.read(100))
