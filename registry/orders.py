"""An operator's orders: promote, roll back, pin, unpin, freeze, unfreeze - and a detector's rollback, which is one too.

Decides what each asks of the ledger as it stands, and what it refuses. An order is carried out in crash order: (1) the target's bundle is
fetched and found whole, (2) the ledger line, which IS the decision, fenced on every line that it rests on, (3) the live pointer. Each may be repeated: an order that was
carried out already is its line, and writes nothing. Needs the registry alone, so it works with everything else down. One thread.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Literal

from protos.errors import ConfigurationError, ConflictError, EverstillError
from registry.bundle import Manifest, version_of
from registry.fetching import Policy, fetch_bundle
from registry.ledger import Facts, Ledger, LedgerMoved, Line
from registry.pointers import Pointers
from registry.standing import Standing, apply_ledger, find_digest, sentence_of
from registry.store import ObjectStore

OrderKind = Literal["promote", "rollback", "pin", "unpin", "freeze", "unfreeze"]
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Refused(ConflictError):
    """The ledger doesn't stand as the order expects, or something holds the live version where it is."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What is asked for, and by whom.

    Args:
        version: the version, or the first characters of one; None is the order's own choice: the predecessor, or the live version.
        floor: roll back to the last resort.
        order_id: the order's name: whatever happens in between, one line bears it.
        expect: the version that must be live, or its first characters.
        epoch: of the lease, where a loop gives the order.
    """

    kind: OrderKind
    actor: str
    reason: str = ""
    version: str | None = None
    floor: bool = False
    order_id: str | None = None
    expect: str | None = None
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)
    epoch: int | None = None

    def __post_init__(self) -> None:
        if self.order_id is not None and not _ID.fullmatch(self.order_id):
            raise ConfigurationError(
                f"{self.order_id!r} is no order's id", fix="Take up to 64 letters, digits, dots, dashes"
            )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an order. line: that says so, None where there was nothing to undo; written: whether this order wrote it."""

    line: Line | None
    written: bool
    standing: Standing


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What an order comes to: it is done already, by `done` where a line says so, or it is about `digest`."""

    digest: str = ""
    done: Line | None = None
    nothing: bool = False


def carry_out(
    store: ObjectStore, model: str, order: Order, *, cache: pathlib.Path, policy: Policy, facts: Facts
) -> Outcome:
    """Carry an order out; whatever a command or a loop that was killed has left half done is finished first.

    Args:
        cache: where the target's bundle is fetched to and checked.
        policy: what the target has to be, and who has to have signed it.
        facts: of this process, for its line.

    Raises:
        Refused: another version is live than expected, or a pin or a freeze forbids it. BundleError: the target is not whole, or isn't signed as it has to be.
        EverstillError: there is no such version. LedgerError: the ledger is damaged: nothing is decided on it.
    """
    ledger, pointers = Ledger(store, model, facts), Pointers(store, model)
    apply_ledger(ledger, pointers, order.epoch)
    while True:
        lines = ledger.uncut()
        standing = Standing.of(lines)
        plan = _plan(order, standing, lines, pointers, model)
        if plan.done is not None or plan.nothing:
            return Outcome(plan.done, False, standing)
        manifest = (
            _whole(store, plan.digest, cache, policy, model) if order.kind in ("promote", "rollback", "pin") else None
        )
        name = f"order-{order.order_id}" if order.order_id else f"{order.kind}-{len(lines) + 1}"
        try:
            line = ledger.append(
                kind=order.kind,
                trial_id=name,
                digest=plan.digest,
                previous_digest=standing.live,
                evidence={**order.evidence, "reason": order.reason},
                actor=order.actor,
                learned_from=next(
                    (one.learned_from for one in reversed(lines) if one.digest == plan.digest and one.learned_from),
                    None,
                ),
                teacher_version=manifest.teacher_version if manifest else None,
                expected=len(lines),
            )
        except LedgerMoved:
            continue  # what this rests on may not hold any more
        return Outcome(line, True, apply_ledger(ledger, pointers, order.epoch))


def _plan(order: Order, standing: Standing, lines: Sequence[Line], pointers: Pointers, model: str) -> _Plan:
    """Say what an order comes to on these lines, and refuse what it must not do."""
    if order.order_id is not None and (line := _by_id(order, lines)):
        return _Plan(done=line)
    if standing.moving is None or standing.live is None:
        raise EverstillError(f"model {model} has no version yet", fix="Wait for the first one, or start the loop")
    target = _target(order, standing, lines, pointers, model)
    if order.kind in ("freeze", "unfreeze", "unpin"):
        holds = standing.freeze if order.kind != "unpin" else standing.pin
        if (order.kind == "freeze") == (holds is not None):
            return _Plan(done=holds, nothing=holds is None)
    elif order.kind == "pin":
        if standing.pin is not None and standing.pin.digest == target:
            return _Plan(done=standing.pin)
    elif target is None or target == standing.live:
        return _Plan(done=standing.arrival)
    _check_expected(order, standing, standing.moving)
    _check_holds(order, standing)
    return _Plan(digest=target or standing.live)


def _by_id(order: Order, lines: Sequence[Line]) -> Line | None:
    """Return the line that bears the order's id already."""
    line = next((line for line in lines if line.trial_id == f"order-{order.order_id}"), None)
    if line is not None and (
        line.kind != order.kind or (order.version is not None and not line.digest.startswith(order.version))
    ):
        raise Refused(
            f"the id {order.order_id} is taken: line {line.number} is a {line.kind} of {version_of(line.digest)}",
            fix="Take another --id",
        )
    return line


def _target(order: Order, standing: Standing, lines: Sequence[Line], pointers: Pointers, model: str) -> str | None:
    """Return the digest that an order is about; None is a rollback without a version where one was made already.

    Raises:
        EverstillError: there is none.
    """
    assert standing.live is not None
    if order.kind == "rollback" and order.floor:
        assert standing.floor is not None  # a model that has a version has a first one
        return standing.floor.digest
    if order.version is None:
        return _rollback_target(order, standing, model) if order.kind == "rollback" else standing.live
    known = [line.digest for line in lines if line.digest]
    if order.kind == "promote" and (trial := pointers.trial()):
        known.append(trial.candidate)
    digest = find_digest(order.version, known, model)
    resorts = standing.served | ({standing.floor.digest} if standing.floor else set())
    if order.kind != "promote" and digest not in resorts:
        raise EverstillError(
            f"version {version_of(digest)} was never live: there is nothing to go back to", fix="Promote it first"
        )
    return digest


def _rollback_target(order: Order, standing: Standing, model: str) -> str | None:
    """Return the predecessor. A rollback that is asked for once more goes no further back, unless it says from which version it goes."""
    assert standing.live is not None
    assert standing.arrival is not None
    from_here = order.expect is not None and standing.live.startswith(order.expect)
    if standing.arrival.kind == "rollback" and not from_here:
        return None
    if standing.predecessor is None:
        raise EverstillError(
            f"model {model} has no version before {version_of(standing.live)} to go back to",
            fix="Name one, or take --floor: everstill versions lists them",
        )
    return standing.predecessor


def _check_expected(order: Order, standing: Standing, moving: Line) -> None:
    assert standing.live is not None
    if order.expect is not None and not (order.expect and standing.live.startswith(order.expect)):
        raise Refused(
            f"version {order.expect} isn't live: {version_of(standing.live)} is, since line {moving.number} "
            f"({moving.kind}, {moving.actor}); nothing was changed",
            fix="Look with everstill status and decide again",
        )


def _check_holds(order: Order, standing: Standing) -> None:
    """Refuse what a pin forbids: every move but another pin; and what a freeze does: promotions. A rollback is never frozen."""
    if order.kind in ("promote", "rollback") and standing.pin is not None:
        fix = "everstill unpin first; or pin the version that shall serve"
        raise Refused(f"{sentence_of(standing.pin)}; nothing was changed", fix=fix)
    if order.kind == "promote" and standing.freeze is not None:
        raise Refused(f"{sentence_of(standing.freeze)}; nothing was changed", fix="everstill unfreeze first")


def _whole(store: ObjectStore, digest: str, cache: pathlib.Path, policy: Policy, model: str) -> Manifest:
    """Fetch and verify the bundle that shall serve: no pointer moves to one that no gateway could load."""
    manifest = fetch_bundle(store, digest, cache, policy).manifest
    if manifest.model != model:
        raise EverstillError(f"version {version_of(digest)} is of model {manifest.model}, not {model}")
    return manifest
