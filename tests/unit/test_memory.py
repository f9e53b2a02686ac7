"""The memory: a checkpoint is whole or not there, and one loop's tidying never takes another's."""

import pathlib

import pytest

from distill_loop.config import LearnerSection
from distill_loop.gates.agreement import ProgressiveAgreement
from distill_loop.gates.promise import Promise
from distill_loop.learner import checkpoint
from distill_loop.learner.step import Learner
from distill_loop.memory import Memory
from distill_loop.progress import Progress
from distill_loop.stream.dead_letter import DeadLetters
from distill_loop.stream.dedupe import Dedupe
from distill_loop.stream.embedded_consumer import EmbeddedConsumer
from distill_loop.stream.reports import Reports
from distill_loop.stream.streams import letters_of, open_writer
from protos.errors import ConflictError, FormatError
from protos.topics import PAIRS
from registry.at_rest import AtRest
from registry.pointers import Pointers
from registry.sections import ModelSection, StreamSection, TensorSpec
from registry.store import ObjectStore, open_store
from tests.support.publishing import StreamWriter, make_pair

MODEL = ModelSection(name="tiny", num_classes=4, inputs=(TensorSpec(name="bytes", datatype="INT32", shape=(-1, 64)),))


class SleepyStore(ObjectStore):
    """Another loop takes over while this one is between moving its pointer and tidying up."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner._backend)
        self.meanwhile = lambda: None

    def list(self, prefix: str) -> list[str]:
        """List, after what happens meanwhile."""
        self.meanwhile()
        return super().list(prefix)


def new_memory(
    store: ObjectStore, folder: pathlib.Path, epoch: int, *, hidden: int = 8, keys: tuple[bytes, ...] = ()
) -> Memory:
    parts = {
        "learner": Learner(LearnerSection(hidden=hidden, embedding=4, buckets=16), MODEL),
        "progress": Progress(),
        "dedupe": Dedupe(10),
        "agreement": ProgressiveAgreement(10),
        "promise": Promise(),
        "reports": Reports(),
    }
    stream = StreamSection(path=folder / "stream.sqlite", partitions=1)
    consumer = EmbeddedConsumer(stream.path, MODEL.name, {PAIRS: 1})
    letters = DeadLetters(open_writer(stream, MODEL.name), lambda: letters_of(stream, MODEL.name))
    return Memory(store, MODEL.name, parts, consumer, letters, AtRest(*keys), epoch=epoch, every_s=0.0)


def test_a_loop_that_slept_does_not_delete_its_successors_checkpoint(tmp_path: pathlib.Path) -> None:
    store = open_store("memory://")
    sleepy = SleepyStore(store)
    old, new = new_memory(sleepy, tmp_path, 1), new_memory(store, tmp_path, 2)

    def take_over() -> None:
        sleepy.meanwhile = lambda: None
        assert new.restore()
        new.save()

    sleepy.meanwhile = take_over
    old.save()

    pointer = Pointers(store, MODEL.name).checkpoint()
    assert pointer is not None
    assert pointer.epoch == 2
    assert new_memory(store, tmp_path, 3).restore()
    with pytest.raises(ConflictError):
        old.save()


def test_only_the_newest_checkpoint_and_the_one_before_are_kept(tmp_path: pathlib.Path) -> None:
    store = open_store("memory://")
    memory = new_memory(store, tmp_path, 1)

    for _ in range(4):
        memory.save()

    assert len(store.list("models/tiny/checkpoints")) == 2
    assert new_memory(store, tmp_path, 2).restore()


def test_a_checkpoint_of_a_student_of_another_shape_is_refused_with_a_sentence(tmp_path: pathlib.Path) -> None:
    store = open_store("memory://")
    new_memory(store, tmp_path, 1, hidden=8).save()

    with pytest.raises(FormatError, match="another student") as refused:
        new_memory(store, tmp_path, 2, hidden=16).restore()

    assert "\n" not in str(refused.value)


def test_a_checkpoint_by_offsets_is_due_after_a_stream_that_began_anew_too(tmp_path: pathlib.Path) -> None:
    memory = new_memory(open_store("memory://"), tmp_path, 1)
    memory._every_messages = 10
    for offset, due in ((25, True), (29, False), (3, True)):
        memory._consumer.seek({(PAIRS, 0): offset})
        assert memory.due() is due
        memory.save()


@pytest.mark.parametrize("before", [{}, {"stream": "f" * 32}])
def test_a_checkpoint_of_a_version_before_says_less_of_its_stream(
    before: dict[str, str], tmp_path: pathlib.Path
) -> None:
    store = open_store("memory://")
    memory = new_memory(store, tmp_path, 1)
    memory._consumer.seek({(PAIRS, 0): 3}, None, {(PAIRS, 0): 5})
    memory.save()
    same = new_memory(store, tmp_path, 2)
    assert same.restore()
    assert same._consumer.times() == {(PAIRS, 0): 5}
    pointer = Pointers(store, MODEL.name).checkpoint()
    assert pointer is not None
    state = checkpoint.load(store.get(pointer.path).data)
    del state["streams"], state["times"]
    store.put(pointer.path, checkpoint.dump({**state, **before}))

    later = new_memory(store, tmp_path, 2)

    assert later.restore()
    assert later._consumer.streams() == {PAIRS: before.get("stream", "")}


def test_a_loop_that_stopped_before_the_first_pair_starts_again(tmp_path: pathlib.Path) -> None:
    store = open_store("memory://")
    new_memory(store, tmp_path, 1).save()

    assert new_memory(store, tmp_path, 2).restore()


def test_nothing_is_restored_where_nothing_was_saved(tmp_path: pathlib.Path) -> None:
    assert not new_memory(open_store("memory://"), tmp_path, 1).restore()


def test_a_checkpoint_is_a_private_file_sealed_with_a_configured_key(tmp_path: pathlib.Path) -> None:
    store = open_store(str(tmp_path / "registry"))
    old, new = bytes(range(32)), bytes(range(1, 33))
    new_memory(store, tmp_path, 1).save()  # before there was a key
    memory = new_memory(store, tmp_path, 2, keys=(old,))
    assert memory.restore()
    memory.save()
    pointer = Pointers(store, MODEL.name).checkpoint()
    assert pointer is not None
    path = store.local_path(pointer.path)
    assert path is not None

    assert path.stat().st_mode & 0o077 == 0
    assert b"EVERCKP1" not in path.read_bytes()
    assert new_memory(store, tmp_path, 3, keys=(new, old)).restore()
    with pytest.raises(FormatError, match=r"sealed with the key .*, which isn't configured"):
        new_memory(store, tmp_path, 3, keys=(new,)).restore()
    with pytest.raises(FormatError):
        new_memory(store, tmp_path, 3).restore()


def test_a_checkpoint_that_takes_long_is_taken_seldom(tmp_path: pathlib.Path) -> None:
    memory = new_memory(open_store("memory://"), tmp_path, 1)
    writer = StreamWriter(tmp_path / "stream.sqlite", MODEL.name, 1)
    writer.pairs([make_pair(1)])
    writer.close()
    memory.save()
    memory._consumer.advance(memory._consumer.poll(1)[0])

    due = {}
    for took_s in (0.0, 1000.0):
        memory._save_s = took_s
        due[took_s] = memory.due()

    assert due == {0.0: True, 1000.0: False}
    memory._consumer.close()


def test_a_checkpoint_of_the_layout_before_is_read(tmp_path: pathlib.Path) -> None:
    store = open_store("memory://")
    new_memory(store, tmp_path, 1).save()
    pointer = Pointers(store, MODEL.name).checkpoint()
    assert pointer is not None
    state = checkpoint.load(store.get(pointer.path).data)
    state["layout"] = 4
    state["progress"] = {"read": 9, "learned": 7, "held_out": 1, "repeats": 1, "dead": 0, "gaps": 3, "trial": None}
    state["learner"]["newest_unix_ns"] = state["learner"].pop("times")[0]
    del state["reports"]
    store.put(pointer.path, checkpoint.dump(state))

    memory = new_memory(store, tmp_path, 2)

    assert memory.restore()
    progress = memory._parts["progress"].state_dict()
    assert (progress["read"], progress["gaps"], progress["refused"]) == (9, {PAIRS: 3}, 0)
