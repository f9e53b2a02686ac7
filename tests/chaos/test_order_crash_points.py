"""An operator's command dies, or the registry fails it, before and after each of its writes: the order has one line, and whoever looks next finishes it."""

import pathlib
from typing import Literal

import pytest

from protos.errors import UnavailableError
from registry.orders import OrderKind
from registry.pointers import Pointers
from registry.standing import apply_ledger
from tests.support.faults import Fault, FaultyStore, Killed
from tests.support.served import MODEL, Served, serve

#: Each order with what it asks for, and the digest's place that is live afterwards.
ORDERS: list[tuple[OrderKind, dict[str, object], int]] = [
    ("rollback", {}, 1),
    ("rollback", {"floor": True}, 0),
    ("promote", {"version": 0}, 0),
    ("pin", {"version": 1}, 1),
    ("unpin", {}, 2),
    ("freeze", {}, 2),
    ("unfreeze", {}, 2),
]
MOVING = ("rollback", "promote", "pin")
PLACES = [("ledger/", "before"), ("ledger/", "after"), ("/live.json", "before"), ("/live.json", "after")]
#: Order, place, fault, and who comes next: each order at each place, and one of them in every way.
CASES = [
    (order, place, "killed", "the same order")
    for order in ORDERS
    for place in PLACES
    if order[0] in MOVING or place[0] == "ledger/"
] + [
    (ORDERS[0], place, *case)
    for place in PLACES
    for case in (("killed", "a loop"), ("killed", "another order"), ("unavailable", "the same order"))
]


def give(served: Served, kind: OrderKind, asked: dict[str, object], store: FaultyStore | None = None) -> None:
    version = asked.get("version")
    more = {"version": served.digests[version]} if isinstance(version, int) else {}
    served.order(kind, store, **{**asked, **more})


@pytest.mark.parametrize(("order", "place", "fault", "finisher"), CASES)
def test_an_order_that_is_cut_short_is_done_once(
    order: tuple[OrderKind, dict[str, object], int],
    place: tuple[str, Literal["before", "after"]],
    fault: Literal["killed", "unavailable"],
    finisher: str,
    tmp_path: pathlib.Path,
) -> None:
    kind, asked, live = order
    served = serve(tmp_path)
    if kind in ("unpin", "unfreeze"):
        served.order("pin" if kind == "unpin" else "freeze")
    before = len(served.ledger.lines())

    with pytest.raises((Killed, UnavailableError)):
        give(served, kind, asked, FaultyStore(served.backend, Fault(place[0], 1, place[1], fault)))
    if place == ("ledger/", "before") or finisher == "the same order":
        give(served, kind, asked)
    elif finisher == "a loop":
        apply_ledger(served.ledger, Pointers(served.store, MODEL), 2)
    else:
        served.order("unfreeze")  # finds nothing to do of its own

    lines = served.ledger.lines()
    assert [line.kind for line in lines[before:]] == [kind]
    assert served.live == served.digests[live]
    assert served.ledger.verify() == len(lines)
