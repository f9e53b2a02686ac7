"""What pointers, ledger, lease, status and bundles promise on every kind of store."""

import pathlib

import pytest

from protos.errors import ConflictError, FormatError
from registry.bundle import read_manifest, version_of, write_bundle
from registry.fetching import Policy, fetch_bundle
from registry.lease import Lease, LeaseHeld, LeaseLost
from registry.ledger import GENESIS, Ledger, Line
from registry.pointers import Checkpoint, Live, Pointers, StaleEpoch, Trial
from registry.status import read_statuses, write_status
from registry.store import ObjectStore
from tests.support.stores import KINDS, make_store
from tests.support.students import make_student_files, publish_student

MODEL = "filetypes"
A, B = "a" * 64, "b" * 64


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> ObjectStore:
    return make_store(request.param, tmp_path)


@pytest.fixture
def pointers(store: ObjectStore) -> Pointers:
    return Pointers(store, MODEL)


def trial(trial_id: str) -> Trial:
    return Trial(trial_id=trial_id, incumbent=A, candidate=B, share=0.25, opened_unix_s=1.5)


def decide(ledger: Ledger, trial_id: str, kind: str = "promote", **evidence: object) -> Line:
    return ledger.append(
        kind=kind,  # type: ignore[arg-type]
        trial_id=trial_id,
        digest=A,
        previous_digest=None,
        evidence=evidence,
        actor="test",
    )


def test_a_registry_without_anything_has_no_pointers(pointers: Pointers) -> None:
    assert (pointers.live(), pointers.trial(), pointers.checkpoint()) == (None, None, None)


def test_the_live_pointer_moves_from_what_was_read(pointers: Pointers) -> None:
    first = Live(digest=A, ledger_line=1, epoch=1)
    second = Live(digest=B, ledger_line=2, epoch=1)

    pointers.move_live(first, None)
    pointers.move_live(second, first)

    assert pointers.live() == second


def test_the_live_pointer_refuses_a_mover_that_read_something_older(pointers: Pointers) -> None:
    first = Live(digest=A, ledger_line=1, epoch=1)
    second = Live(digest=B, ledger_line=2, epoch=1)
    pointers.move_live(first, None)
    pointers.move_live(second, first)

    with pytest.raises(ConflictError, match="moved by somebody else"):
        pointers.move_live(Live(digest=A, ledger_line=3, epoch=1), first)

    assert pointers.live() == second


def test_a_move_may_be_repeated(pointers: Pointers) -> None:
    first = Live(digest=A, ledger_line=1, epoch=1)

    pointers.move_live(first, None)
    pointers.move_live(first, None)

    assert pointers.live() == first


def test_a_checkpoint_s_move_may_be_repeated_with_a_newer_ledger_line(pointers: Pointers) -> None:
    first = Checkpoint(path="models/filetypes/checkpoints/1-1", epoch=1, sequence=1)
    later = first.model_copy(update={"ledger_line": 1, "ledger_hash": "f" * 64})
    pointers.move_checkpoint(first, None)

    pointers.move_checkpoint(later, None)  # the first move was never heard of

    assert pointers.checkpoint() == later
    with pytest.raises(ConflictError, match="moved by somebody else"):
        pointers.move_checkpoint(first.model_copy(update={"path": "models/filetypes/checkpoints/1-2"}), None)


def test_pointers_refuse_an_older_epoch(pointers: Pointers) -> None:
    live = Live(digest=A, ledger_line=1, epoch=5)
    checkpoint = Checkpoint(path="models/filetypes/checkpoints/5-1", epoch=5, sequence=1)
    pointers.move_live(live, None)
    pointers.move_checkpoint(checkpoint, None)

    with pytest.raises(ConflictError, match="belongs to epoch 5, this process to 4"):
        pointers.move_live(Live(digest=B, ledger_line=2, epoch=4), live)
    with pytest.raises(ConflictError, match="belongs to epoch 5, this process to 4"):
        pointers.move_checkpoint(checkpoint.model_copy(update={"epoch": 4, "sequence": 2}), checkpoint)

    assert (pointers.live(), pointers.checkpoint()) == (live, checkpoint)


@pytest.mark.parametrize("trial_id", ["t-1", "closed", '"closed"'])
def test_a_trial_opens_closes_and_opens_again(pointers: Pointers, trial_id: str) -> None:
    pointers.set_trial(trial(trial_id), epoch=1)
    assert pointers.trial() == trial(trial_id)

    pointers.set_trial(None, epoch=1)
    pointers.set_trial(None, epoch=1)
    assert pointers.trial() is None

    pointers.set_trial(trial("t-2"), epoch=1)
    assert pointers.trial() == trial("t-2")


def test_a_trial_pointer_keeps_the_epoch_of_who_set_it_and_an_older_one_moves_nothing(
    store: ObjectStore, pointers: Pointers
) -> None:
    store.put(f"models/{MODEL}/trial.json", trial("t-1").model_dump_json().encode())  # of a version before
    assert pointers.trial() == trial("t-1")
    pointers.close_trial("t-1", epoch=1)
    pointers.set_trial(None, epoch=2)  # a loop that starts says so, open trial or not

    with pytest.raises(StaleEpoch, match="belongs to epoch 2, this process to 1"):
        pointers.set_trial(trial("t-2"), epoch=1)
    assert pointers.trial() is None

    pointers.set_trial(trial("t-2"), epoch=2)
    with pytest.raises(StaleEpoch):
        pointers.close_trial("t-2", epoch=1)
    assert pointers.trial() == trial("t-2")


@pytest.mark.parametrize("name", ["live", "trial", "checkpoint"])
@pytest.mark.parametrize("data", [b"", b'{"digest": "aa', b"[]", b'{"unknown": 1}', b"\xff\xfe"])
def test_a_pointer_that_is_none_is_named(store: ObjectStore, pointers: Pointers, name: str, data: bytes) -> None:
    store.put(f"models/{MODEL}/{name}.json", data)

    with pytest.raises(FormatError, match=f"models/{MODEL}/{name}.json is not a pointer"):
        getattr(pointers, name)()


def test_the_ledger_keeps_every_decision_in_order_and_chained(store: ObjectStore) -> None:
    ledger = Ledger(store, MODEL)
    assert (ledger.last(), ledger.lines(), ledger.verify()) == (None, [], 0)

    written = [decide(ledger, "boot", "bootstrap"), decide(ledger, "t-1", log_e=5.5), decide(ledger, "t-2", "reject")]

    assert ledger.lines() == written
    assert ledger.last() == written[-1]
    assert [line.previous_hash for line in written] == [GENESIS, written[0].hash, written[1].hash]
    assert ledger.verify() == 3


def test_a_trial_is_decided_once(store: ObjectStore) -> None:
    ledger = Ledger(store, MODEL)
    first = decide(ledger, "t-1", "promote", log_e=5.5)
    decide(ledger, "t-2", "reject")

    again = decide(ledger, "t-1", "reject", log_e=0.1)

    assert again == first == ledger.find("t-1")
    assert len(ledger.lines()) == 2


def test_an_open_trial_has_no_line(store: ObjectStore) -> None:
    decide(Ledger(store, MODEL), "t-1")

    assert Ledger(store, MODEL).find("t-2") is None


def test_models_of_one_registry_have_their_own_ledgers_and_pointers(store: ObjectStore) -> None:
    decide(Ledger(store, "one"), "t-1")
    Pointers(store, "one").move_live(Live(digest=A, ledger_line=1, epoch=1), None)

    assert Ledger(store, "on").lines() == []
    assert Pointers(store, "two").live() is None


def test_a_held_lease_names_its_holder_and_the_time_left(store: ObjectStore) -> None:
    Lease.acquire(store, MODEL, "loop", "host-1:42", 600.0)

    with pytest.raises(LeaseHeld, match=r"host-1:42 is the loop of filetypes for another (600|599) s"):
        Lease.acquire(store, MODEL, "loop", "host-2:7", 600.0)


def test_a_taken_over_lease_has_the_next_epoch_and_its_old_holder_finds_out(store: ObjectStore) -> None:
    silent = Lease.acquire(store, MODEL, "loop", "first", 0.0)

    successor = Lease.acquire(store, MODEL, "loop", "second", 600.0)

    assert (silent.epoch, successor.epoch) == (1, 2)
    with pytest.raises(LeaseLost, match="first lost the lease"):
        silent.renew()
    with pytest.raises(LeaseLost):
        silent.release()
    successor.renew()


def test_a_renewed_lease_can_not_be_taken(store: ObjectStore) -> None:
    lease = Lease.acquire(store, MODEL, "loop", "first", 600.0)
    lease.renew()
    lease.renew()

    with pytest.raises(LeaseHeld):
        Lease.acquire(store, MODEL, "loop", "second", 600.0)
    assert lease.epoch == 1


def test_a_released_lease_is_taken_at_once_with_the_next_epoch(store: ObjectStore) -> None:
    Lease.acquire(store, MODEL, "loop", "first", 600.0).release()

    assert Lease.acquire(store, MODEL, "loop", "second", 600.0).epoch == 2


def test_a_holder_that_comes_back_from_the_dead_can_move_nothing(store: ObjectStore) -> None:
    pointers = Pointers(store, MODEL)
    dead = Lease.acquire(store, MODEL, "loop", "first", 0.0)
    living = Lease.acquire(store, MODEL, "loop", "second", 600.0)
    live = Live(digest=A, ledger_line=1, epoch=living.epoch)
    pointers.move_live(live, None)

    with pytest.raises(ConflictError):
        pointers.move_live(Live(digest=B, ledger_line=2, epoch=dead.epoch), live)

    assert pointers.live() == live


def test_a_lease_that_is_none_is_named(store: ObjectStore) -> None:
    store.put(f"models/{MODEL}/leases/loop.json", b"{")

    with pytest.raises(ConflictError, match=r"leases/loop.json is not a lease"):
        Lease.acquire(store, MODEL, "loop", "first", 1.0)


def test_each_process_has_its_newest_status(store: ObjectStore) -> None:
    write_status(store, MODEL, "gateway-1", {"process": "gateway", "live": None})
    write_status(store, MODEL, "gateway-1", {"process": "gateway", "live": "abc"})
    write_status(store, MODEL, "loop", {"process": "loop"})

    statuses = read_statuses(store, MODEL)

    assert {key: value["process"] for key, value in statuses.items()} == {"gateway-1": "gateway", "loop": "loop"}
    assert statuses["gateway-1"]["live"] == "abc"
    assert statuses["loop"]["time_unix_s"] > 0


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff\xfe{"])
def test_a_status_that_is_none_hides_no_other(store: ObjectStore, data: bytes) -> None:
    write_status(store, MODEL, "loop", {"process": "loop"})
    store.put(f"models/{MODEL}/status/broken.json", data)

    assert list(read_statuses(store, MODEL)) == ["loop"]


def test_a_bundle_comes_back_as_it_was_written(store: ObjectStore, tmp_path: pathlib.Path) -> None:
    files = make_student_files(model=MODEL, winner=7)
    digest = write_bundle(store, files)

    bundle = fetch_bundle(store, digest, tmp_path / "cache", Policy())

    assert bundle.version == version_of(digest) == digest[:12]
    assert {name: (bundle.folder / name).read_bytes() for name in files} == files
    assert bundle.manifest == read_manifest(store, digest)
    assert bundle.manifest.student["winner"] == 7


def test_the_same_files_have_the_same_digest_and_others_another(store: ObjectStore) -> None:
    first = write_bundle(store, make_student_files(winner=1))

    assert write_bundle(store, make_student_files(winner=1)) == first
    assert publish_student(store, winner=2) != first
    assert len(store.list(f"bundles/{first}")) == 4
