"""The operator's commands: `promote`, `rollback`, `pin`, `unpin`, `freeze`, `unfreeze`.

Decides the words and who is said to have asked; what is allowed is decided by `registry.orders`. They write ledger and live pointer themselves, so they work with the
loop down; gateways follow the pointer, a loop that runs follows the ledger.
"""

import getpass
import json
import platform
from collections.abc import Callable
from typing import Annotated

import typer

from distill_loop.config import digest_of
from everstill.ledger.sentences import describe
from everstill.looking import existing_store
from everstill.options import ConfigOption, JsonOption, settings_of
from registry.bundle import version_of
from registry.code_version import code_version
from registry.fetching import Policy
from registry.ledger import Facts
from registry.orders import Order, OrderKind, Outcome, carry_out
from registry.witnesses import seen

VersionArgument = Annotated[str, typer.Argument(help="Version, or the first characters of one.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the ledger.")]
ActorOption = Annotated[
    str | None, typer.Option("--actor", help="Who decided, for the ledger.", show_default="user@host")
]
IdOption = Annotated[
    str | None,
    typer.Option("--id", help="The order's own name: however often it is sent, the ledger has one line of it."),
]
ExpectOption = Annotated[
    str | None,
    typer.Option("--expect", metavar="VERSION", help="Refuse (exit code 5) where another version is live than this."),
]
OneModelOption = Annotated[str | None, typer.Option("--model", help="Which of the configuration's models.")]


def promote(
    version: VersionArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why the gate is passed by, for the ledger.")],
    expect: ExpectOption = None,
    actor: ActorOption = None,
    order_id: IdOption = None,
    config: ConfigOption = None,
    model: OneModelOption = None,
    json_output: JsonOption = False,
) -> None:
    """Let a version serve, past the gate: a candidate on trial, or any that the ledger knows.

    Refused while a version is pinned or promotions are frozen. The line keeps who asked and why.
    """
    _give(
        Order("promote", _actor(actor), reason, version, order_id=order_id, expect=expect), config, model, json_output
    )


def rollback(
    version: Annotated[
        str | None, typer.Argument(help="Version that served before; none: the one before the live one.")
    ] = None,
    floor: Annotated[
        bool, typer.Option("--floor", help="Go back to the student that is never updated, the last resort.")
    ] = False,
    reason: ReasonOption = "",
    expect: ExpectOption = None,
    actor: ActorOption = None,
    order_id: IdOption = None,
    config: ConfigOption = None,
    model: OneModelOption = None,
    json_output: JsonOption = False,
) -> None:
    """Go back to a version that served before; every worker is given it at once.

    The same command once more goes no further back: name a version, or say with --expect which one is live now. A freeze doesn't hold it, a pin does.
    """
    if floor and version is not None:
        raise typer.BadParameter("give a version or --floor, not both")
    order = Order("rollback", _actor(actor), reason, version, floor, order_id, expect)
    _give(order, config, model, json_output)


def pin(
    version: Annotated[
        str | None, typer.Argument(help="Version that shall serve, one that did before; none: the live one.")
    ] = None,
    reason: ReasonOption = "",
    expect: ExpectOption = None,
    actor: ActorOption = None,
    order_id: IdOption = None,
    config: ConfigOption = None,
    model: OneModelOption = None,
    json_output: JsonOption = False,
) -> None:
    """Let a version serve and hold it there, against promotions and rollbacks of every kind, until it is unpinned."""
    _give(Order("pin", _actor(actor), reason, version, order_id=order_id, expect=expect), config, model, json_output)


def unpin(
    reason: ReasonOption = "",
    expect: ExpectOption = None,
    actor: ActorOption = None,
    order_id: IdOption = None,
    config: ConfigOption = None,
    model: OneModelOption = None,
    json_output: JsonOption = False,
) -> None:
    """End a pin. The version goes on serving until the gate, a detector or an operator decides otherwise."""
    _give(Order("unpin", _actor(actor), reason, order_id=order_id, expect=expect), config, model, json_output)


def freeze(
    reason: ReasonOption = "",
    expect: ExpectOption = None,
    actor: ActorOption = None,
    order_id: IdOption = None,
    config: ConfigOption = None,
    model: OneModelOption = None,
    json_output: JsonOption = False,
) -> None:
    """Promote nothing until unfrozen. The loop goes on learning and trying candidates, and writes down what passes; rollbacks work."""
    _give(Order("freeze", _actor(actor), reason, order_id=order_id, expect=expect), config, model, json_output)


def unfreeze(
    reason: ReasonOption = "",
    expect: ExpectOption = None,
    actor: ActorOption = None,
    order_id: IdOption = None,
    config: ConfigOption = None,
    model: OneModelOption = None,
    json_output: JsonOption = False,
) -> None:
    """End a freeze. What passed meanwhile isn't promoted by that: its evidence is of then."""
    _give(Order("unfreeze", _actor(actor), reason, order_id=order_id, expect=expect), config, model, json_output)


#: The commands by name, with an example for their help.
COMMANDS: dict[Callable[..., None], str] = {
    promote: 'Example: everstill promote 3fa2b1c4d5e6 --expect 91c0d2e3f4a5 --reason "hand-checked on 200 rows"',
    rollback: 'Example: everstill rollback --expect 3fa2b1c4d5e6 --reason "complaints since noon"',
    pin: 'Example: everstill pin --reason "audit this week"',
    unpin: "Example: everstill unpin",
    freeze: 'Example: everstill freeze --reason "release day"',
    unfreeze: "Example: everstill unfreeze",
}


def _give(order: Order, config: ConfigOption, model: str | None, json_output: bool) -> None:
    settings = settings_of(config, model)
    facts = Facts(digest_of(settings), code_version())
    name = settings.model.name
    policy = Policy.of(settings.signing, settings.bundles)
    store = existing_store(settings)
    outcome = carry_out(store, name, order, cache=settings.registry.cache, policy=policy, facts=facts)
    line = outcome.line
    if json_output:
        body = {
            "model": name,
            "written": outcome.written,
            "live": version_of(outcome.standing.live) if outcome.standing.live else None,
            "line": json.loads(line.to_json()) if line else None,
            "newest": seen(outcome.standing.newest),
        }
        print(json.dumps(body))
    else:
        print(_sentence(order.kind, outcome))


def _sentence(kind: OrderKind, outcome: Outcome) -> str:
    line = outcome.line
    if line is None:
        return "nothing is pinned" if kind == "unpin" else "promotions aren't frozen"
    if not outcome.written:
        return f"nothing was changed, line {line.number} says so already: {describe(line)} ({line.actor})"
    swaps = line.moves_live and line.digest != line.previous_digest
    live = f"; {version_of(line.digest)} serves as soon as gateways have it" if swaps else ""
    return f"{describe(line)}{live}. Ledger line {line.number}:{line.hash[:16]}"


def _actor(given: str | None) -> str:
    """Return who asks: as told, or user@host."""
    return given or f"{_user()}@{platform.node()}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
