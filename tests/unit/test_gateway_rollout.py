"""The roll-out: which worker is given which version, and when."""

import dataclasses

import hypothesis
from hypothesis import strategies as st

from serving.supervision.child import Place
from serving.supervision.rollout import Rollout

MODEL = "m"


@dataclasses.dataclass
class Worker:
    """A worker as the roll-out sees it. It answers when the test says so."""

    places: dict[str, Place] = dataclasses.field(default_factory=lambda: {MODEL: Place()})

    @property
    def place(self) -> Place:
        return self.places[MODEL]


class Room:
    """A roll-out with workers that obey the test."""

    def __init__(self, num_workers: int) -> None:
        self.rollout = Rollout([MODEL])
        self.target = self.rollout.targets[MODEL]
        self.workers = [Worker() for _ in range(num_workers)]

    def plan(self) -> list[str | None]:
        """Return what each worker was given."""
        self.rollout.plan(self.workers)
        return [worker.place.given for worker in self.workers]

    def serve(self, number: int) -> None:
        """Let a worker say that it serves what it was given."""
        place = self.workers[number].place
        assert place.given is not None
        place.serving, place.refused = place.given, None
        self.target.serves(place.given)

    def refuse(self, number: int) -> None:
        self.workers[number].place.refused = self.workers[number].place.given

    def restart(self, number: int) -> None:
        self.workers[number] = Worker()

    def follow(self, digest: str) -> None:
        """Bring every worker to a version."""
        self.target.aim(digest)
        for _ in self.workers:
            self.plan()
            for number, worker in enumerate(self.workers):
                if worker.place.loading:
                    self.serve(number)


def test_the_first_version_is_given_to_all_at_once() -> None:
    room = Room(3)
    assert room.plan() == [None, None, None]

    room.target.aim("v1")

    assert room.plan() == ["v1", "v1", "v1"]


def test_the_next_version_is_given_to_one_worker_at_a_time() -> None:
    room = Room(3)
    room.follow("v1")
    room.target.aim("v2")

    assert room.plan() == ["v2", "v1", "v1"]
    assert room.plan() == ["v2", "v1", "v1"]
    room.serve(0)
    assert room.plan() == ["v2", "v2", "v1"]
    room.serve(1)
    assert room.plan() == ["v2", "v2", "v2"]


def test_a_refusal_halts_the_roll_out_until_the_worker_serves_it_after_all() -> None:
    room = Room(3)
    room.follow("v1")
    room.target.aim("v2")
    room.plan()
    room.refuse(0)

    assert room.plan() == ["v2", "v1", "v1"]
    room.serve(0)
    assert room.plan() == ["v2", "v2", "v1"]


def test_a_pointer_that_moves_on_ends_a_halt() -> None:
    room = Room(2)
    room.follow("v1")
    room.target.aim("v2")
    room.plan()
    room.refuse(0)

    room.target.aim("v3")

    assert room.plan() == ["v3", "v1"]


def test_a_version_that_was_served_before_is_given_to_all_at_once() -> None:
    room = Room(3)
    room.follow("v1")
    room.follow("v2")

    room.target.aim("v1")

    assert room.plan() == ["v1", "v1", "v1"]


def test_a_decision_that_says_it_is_a_rollback_is_given_to_all_at_once() -> None:
    room = Room(3)
    room.follow("v2")

    room.target.aim("v1", rollback=True)

    assert room.plan() == ["v1", "v1", "v1"]


def test_a_restarted_worker_is_given_what_others_serve_while_the_newest_is_refused() -> None:
    room = Room(3)
    room.follow("v1")
    room.target.aim("v2")
    room.plan()
    room.refuse(0)

    room.restart(2)

    assert room.plan() == ["v2", "v1", "v1"]


def test_a_restarted_worker_is_given_the_newest_version_that_any_has_served() -> None:
    room = Room(3)
    room.follow("v1")
    room.target.aim("v2")
    room.plan()
    room.serve(0)
    room.plan()  # the second is loading

    room.restart(2)

    assert room.plan() == ["v2", "v2", "v2"]


def test_a_single_worker_that_died_of_the_newest_version_is_given_the_one_before() -> None:
    room = Room(1)
    room.follow("v1")
    room.target.aim("v2")
    room.plan()

    room.restart(0)

    assert room.plan() == ["v1"]
    room.serve(0)
    assert room.plan() == ["v2"]


def test_one_model_at_a_time_is_loaded_by_one_worker() -> None:
    rollout = Rollout(["a", "b"])
    workers = [Worker({"a": Place("a1", "a1"), "b": Place("b1", "b1")}) for _ in range(2)]
    rollout.targets["a"].aim("a2")
    rollout.targets["b"].aim("b2")

    rollout.plan(workers)

    assert [(one.places["a"].given, one.places["b"].given) for one in workers] == [("a2", "b1"), ("a1", "b1")]


def test_a_model_whose_newest_is_refused_holds_no_other_model_up() -> None:
    rollout = Rollout(["a", "b"])
    workers = [Worker({"a": Place("a2", "a1", "a2"), "b": Place("b1", "b1")}) for _ in range(2)]
    rollout.targets["a"].aim("a2")
    rollout.targets["b"].aim("b2")

    rollout.plan(workers)

    assert workers[0].places["b"].given == "b2"


@hypothesis.given(
    st.lists(st.sampled_from(["promote", "serve 0", "serve 1", "serve 2", "refuse", "restart"]), max_size=40)
)
def test_without_a_rollback_no_worker_is_ever_given_an_older_version(events: list[str]) -> None:
    room = Room(3)
    newest = 0
    seen: dict[int, int] = {}
    for event in ["promote", *events]:
        what, _, which = event.partition(" ")
        if what == "promote":
            newest += 1
            room.target.aim(f"{newest:03d}")
        elif what == "restart":
            room.restart(1)
            seen.pop(1, None)
        elif what == "refuse" and room.workers[0].place.loading:
            room.refuse(0)
        elif what == "serve" and room.workers[int(which)].place.loading:
            room.serve(int(which))
        before = [worker.place.given for worker in room.workers]
        after = room.plan()
        assert sum(new != old for old, new in zip(before, after, strict=True) if old is not None) <= 1
        for number, given in enumerate(after):
            assert given is not None
            assert int(given) >= seen.get(number, 0)
            seen[number] = int(given)


def test_models_take_turns_so_that_one_that_hangs_keeps_no_other_back() -> None:
    rollout, workers = Rollout(["a", "b"]), [Worker({"a": Place(), "b": Place()}) for _ in range(2)]
    for model, target in rollout.targets.items():
        target.aim("v1")
        target.serves("v1")
        target.aim("v2")
        for worker in workers:
            worker.places[model] = Place(given="v1", serving="v1")
    rollout.plan(workers)
    assert workers[0].places["a"].loading

    workers[0].places["a"] = Place(given="v1", serving="v1")  # it hung, and was started again
    rollout.plan(workers)

    assert (workers[0].places["a"].given, workers[0].places["b"].given) == ("v1", "v2")
