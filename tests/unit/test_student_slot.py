"""The slot: a leased version stays, a drained one goes, and nobody ever sees half of a swap."""

import gc
import threading
import weakref
from concurrent import futures

import pytest

from serving.student.slot import NoVersion, Slot
from tests.support.callers import FakeSession
from tests.support.waiting import wait_for


def holding(version: str) -> Slot:
    slot = Slot()
    slot.swap(FakeSession(version), drain_deadline_s=1.0)
    return slot


def test_an_empty_slot_has_no_version_and_lends_nothing() -> None:
    slot = Slot()

    assert (slot.version, slot.digest) == (None, None)
    with pytest.raises(NoVersion, match="no student version yet"), slot.lease():
        pass


def test_a_lease_keeps_its_version_through_a_swap() -> None:
    slot = holding("one")

    with futures.ThreadPoolExecutor(1) as pool:
        with slot.lease() as session:
            swap = pool.submit(slot.swap, FakeSession("two"), drain_deadline_s=10.0)
            wait_for(lambda: slot.version == "two", what="the swap")
            assert session.version == "one"
            assert not swap.done()
            with slot.lease() as newer:
                assert newer.version == "two"

        assert swap.result(10)


def test_a_swap_stops_waiting_at_its_deadline_and_the_last_lease_frees_the_old() -> None:
    slot = holding("one")

    with slot.lease() as session:
        gone = weakref.ref(session)
        assert slot.swap(FakeSession("two"), drain_deadline_s=0.01) is False
        assert gone() is session
        del session

    assert gone() is None


def test_a_drained_version_is_freed_without_the_garbage_collector() -> None:
    first = FakeSession("one")
    slot, gone = Slot(), weakref.ref(first)
    slot.swap(first, drain_deadline_s=1.0)
    del first
    gc.disable()
    try:
        assert slot.swap(FakeSession("two"), drain_deadline_s=1.0)
        assert gone() is None
    finally:
        gc.enable()


def test_a_lease_that_ends_in_an_error_is_over() -> None:
    slot = holding("one")

    with pytest.raises(RuntimeError), slot.lease():
        raise RuntimeError

    assert slot.swap(FakeSession("two"), drain_deadline_s=1.0)


def test_leases_taken_during_many_swaps_always_get_a_whole_version() -> None:
    slot, ending, seen = holding("0"), threading.Event(), set[str]()

    def lend() -> None:
        while not ending.is_set():
            with slot.lease() as session:
                assert session.version == session.digest
                seen.add(session.version)

    with futures.ThreadPoolExecutor(4) as pool:
        lenders = [pool.submit(lend) for _ in range(4)]
        drained = [slot.swap(FakeSession(str(number)), drain_deadline_s=10.0) for number in range(1, 50)]
        ending.set()
        for lender in lenders:
            lender.result(10)

    assert all(drained)
    assert slot.version == "49"
    assert seen <= {str(number) for number in range(50)}
