"""An operator's orders: what each does to ledger and pointer, once, and what is refused."""

import concurrent.futures
import pathlib

import pytest

from protos.errors import ConfigurationError, EverstillError
from registry.bundle import BundleError, sign_bundle, version_of
from registry.fetching import Policy
from registry.orders import OrderKind, Refused
from registry.pointers import Pointers, Trial
from registry.sections import BundlesSection
from registry.standing import apply_ledger
from tests.support.hostile import SIGNER, SIGNING
from tests.support.served import MODEL, Served, serve


@pytest.fixture
def served(tmp_path: pathlib.Path) -> Served:
    return serve(tmp_path)


def test_a_rollback_goes_to_the_predecessor_and_says_who_and_why(served: Served) -> None:
    _, second, third = served.digests

    line = served.order("rollback", reason="complaints", expect=version_of(third)).line

    assert line is not None
    assert (line.kind, line.digest, line.previous_digest) == ("rollback", second, third)
    assert (line.actor, line.evidence["reason"]) == ("ann@host", "complaints")
    assert (line.config_digest, line.code_version, line.teacher_version) == ("c" * 64, "0.1.0+test", "teacher-1")
    assert served.live == second
    assert served.ledger.verify() == 4


def test_the_same_rollback_once_more_goes_no_further_back(served: Served) -> None:
    first, second, third = served.digests
    served.order("rollback")

    again = served.order("rollback")
    stale = served.order("rollback", expect=third)
    named = served.order("rollback", version=second)

    assert [one.written for one in (again, stale, named)] == [False, False, False]
    assert (served.live, served.kinds()) == (second, ["rollback"])
    assert served.order("rollback", expect=second).written  # from here, it says
    assert served.live == first


def test_what_was_rolled_back_is_nobody_s_predecessor(served: Served) -> None:
    first, second, third = served.digests
    served.order("rollback")
    fourth = served.publish(9)
    served.append("promote", fourth, "t-9")

    assert served.standing.stack == (first, second, fourth)
    assert third in served.standing.served
    served.order("rollback")
    assert served.live == second


def test_the_first_version_has_nothing_before_it(tmp_path: pathlib.Path) -> None:
    served = serve(tmp_path, 1)

    with pytest.raises(EverstillError, match="has no version before"):
        served.order("rollback")

    assert served.kinds() == []


def test_any_version_that_served_can_be_gone_back_to_and_no_other(served: Served) -> None:
    candidate = served.publish(7)
    served.append("reject", candidate, "t-7")

    with pytest.raises(EverstillError, match="was never live"):
        served.order("rollback", version=candidate[:8])
    with pytest.raises(EverstillError, match=r"no version begins with 'zz'.*Known are"):
        served.order("rollback", version="zz")
    served.order("rollback", version=served.digests[0][:8])

    assert served.live == served.digests[0]


def test_a_version_whose_bundle_is_gone_or_torn_is_not_pointed_to(served: Served) -> None:
    served.store.delete(f"bundles/{served.digests[1]}/model.onnx")

    with pytest.raises(BundleError, match=r"lacks model\.onnx"):
        served.order("rollback")

    assert (served.live, served.kinds()) == (served.digests[2], [])


@pytest.mark.parametrize(
    "asked", [("promote", {"version": 1}), ("rollback", {}), ("rollback", {"floor": True}), ("pin", {"version": 1})]
)
def test_no_order_points_to_what_nobody_pinned_has_signed(
    served: Served, asked: tuple[OrderKind, dict[str, object]]
) -> None:
    kind, options = asked
    policy = Policy.of(SIGNING, BundlesSection())
    target = served.digests[0 if "floor" in options else 1]
    if "version" in options:
        options = {"version": target[:8]}

    with pytest.raises(BundleError) as refused:
        served.order(kind, policy=policy, **options)
    assert (refused.value.reason, served.live, served.kinds()) == ("unsigned", served.digests[2], [])
    sign_bundle(served.store, target, SIGNER)
    served.order(kind, policy=policy, **options)

    assert (served.live, served.kinds()) == (target, [kind])


def test_the_floor_is_the_first_version_or_the_file_that_was_named(served: Served) -> None:
    served.order("rollback", floor=True)
    assert served.live == served.digests[0]

    floor = served.publish(8)
    served.append("floor", floor, "floor-5", source="file", file="small.onnx")
    served.order("rollback", floor=True)

    assert served.live == floor
    assert {floor} <= served.standing.kept


@pytest.mark.parametrize("how", ["rejected", "on trial"])
def test_a_candidate_can_be_promoted_past_the_gate(how: str, served: Served) -> None:
    candidate, live = served.publish(7), served.digests[2]
    if how == "rejected":
        served.append("reject", candidate, "t-7")
    else:
        trial = Trial(trial_id="t-7", incumbent=live, candidate=candidate, share=0.5, opened_unix_s=0.0)
        Pointers(served.store, MODEL).set_trial(trial, epoch=1)

    served.order("promote", version=candidate[:10])
    served.order("promote", version=candidate[:10])

    assert (served.live, served.kinds().count("promote")) == (candidate, 1)


def test_a_stale_order_is_refused_and_changes_nothing(served: Served) -> None:
    with pytest.raises(
        Refused, match=f"version {'0' * 12} isn't live: {version_of(served.digests[2])} is, since line 3"
    ) as told:
        served.order("rollback", expect="0" * 12)

    assert told.value.exit_code == 5
    assert served.kinds() == []


@pytest.mark.parametrize(("first", "second", "holds"), [("freeze", "unfreeze", "freeze"), ("pin", "unpin", "pin")])
def test_what_holds_is_written_once_and_ends_once(first: str, second: str, holds: str, served: Served) -> None:
    assert served.order(second).line is None  # type: ignore[arg-type]
    for order in (first, first, second, second, first):
        served.order(order)  # type: ignore[arg-type]

    assert served.kinds() == [first, second, first]
    assert getattr(served.standing, holds).evidence["reason"] == "a test"
    assert served.live == served.digests[2]


def test_a_freeze_holds_promotions_and_no_rollback(served: Served) -> None:
    served.order("freeze", reason="release day")

    with pytest.raises(Refused, match="promotions are frozen since line 4 by ann@host: release day"):
        served.order("promote", version=served.digests[0])
    served.order("rollback")

    assert served.live == served.digests[1]


def test_a_pin_holds_everything_but_another_pin(served: Served) -> None:
    first, second, _ = served.digests
    served.order("pin", version=second)
    assert served.live == second

    for kind in ("promote", "rollback"):
        with pytest.raises(Refused, match=f"version {version_of(second)} is pinned since line 4"):
            served.order(kind, version=first)  # type: ignore[arg-type]
    served.order("pin", version=first)

    assert (served.live, served.standing.stack) == (first, (first,))


def test_a_pin_doesn_t_make_a_rollback_forgotten(served: Served) -> None:
    served.order("rollback")
    served.order("pin")
    served.order("unpin")

    assert not served.order("rollback").written
    assert served.live == served.digests[1]


def test_an_order_with_an_id_has_one_line_whatever_came_since(served: Served) -> None:
    served.order("rollback", order_id="page-17")
    served.order("promote", version=served.digests[2])

    again = served.order("rollback", order_id="page-17")

    assert (again.written, served.live) == (False, served.digests[2])
    with pytest.raises(Refused, match="the id page-17 is taken: line 4 is a rollback"):
        served.order("freeze", order_id="page-17")
    with pytest.raises(ConfigurationError, match="is no order's id"):
        served.order("freeze", order_id="../17")


def test_orders_that_race_are_one_line_or_one_winner(served: Served) -> None:
    live = served.digests[2]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        frozen = list(pool.map(lambda _: served.order("freeze"), range(8)))
        served.order("unfreeze")

        def back(place: int) -> bool:
            try:
                return served.order("rollback", version=served.digests[place % 2], expect=live).written
            except Refused:
                return False

        went = list(pool.map(back, range(8)))

    assert [one.written for one in frozen].count(True) == 1
    assert went.count(True) == 1
    assert served.kinds() == ["freeze", "unfreeze", "rollback"]


def test_without_a_version_there_is_nothing_to_order(tmp_path: pathlib.Path) -> None:
    with pytest.raises(EverstillError, match="has no version yet"):
        serve(tmp_path, 0).order("freeze")


def test_a_loop_of_an_older_epoch_moves_nothing_and_a_command_needs_none(served: Served) -> None:
    pointers = Pointers(served.store, MODEL)
    served.order("rollback", epoch=7)
    assert pointers.live().epoch == 7  # type: ignore[union-attr]
    served.order("promote", version=served.digests[2])

    assert (pointers.live().epoch, served.live) == (7, served.digests[2])  # type: ignore[union-attr]
    with pytest.raises(Exception, match="belongs to epoch 7, this process to 1"):
        served.append("promote", served.digests[0], "t-zombie")
    assert apply_ledger(served.ledger, pointers).live == served.live == served.digests[0]
