"""Who else has seen a ledger's newest lines, so that lines that were cut off, or cut off and written anew, are missed.

A chain that lost its end is still a chain. Live pointer, checkpoint pointer, and the status objects of the loop and of each gateway say which line they
had seen last; a person may keep one too, since every command prints it. Decides nothing. Any thread, any process.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from protos.errors import EverstillError
from registry.ledger import Ledger, LedgerError, Line
from registry.pointers import Pointers
from registry.status import read_statuses
from registry.store import ObjectStore

FIX = "Lines were cut off or replaced; restore the ledger from a backup"


@dataclasses.dataclass(frozen=True)
class Witness:
    """Somebody who has seen a line: its hash, and the digest it is about, each empty where they don't say."""

    who: str
    number: int
    hash: str = ""
    digest: str = ""


def seen(line: Line | None) -> dict[str, Any] | None:
    """Return a line as a status object names it."""
    return {"number": line.number, "hash": line.hash} if line else None


def witnesses(store: ObjectStore, model: str) -> list[Witness]:
    """Return everybody who has seen a line of this model's ledger. Read before the ledger is: what they have seen was there before."""
    pointers, found = Pointers(store, model), list[Witness]()
    if live := pointers.live():
        found.append(Witness("the live pointer", live.ledger_line, digest=live.digest))
    if (checkpoint := pointers.checkpoint()) and checkpoint.ledger_line:
        found.append(Witness("the loop's checkpoint", checkpoint.ledger_line, checkpoint.ledger_hash))
    for name, body in sorted(read_statuses(store, model).items()):
        said = body.get("ledger")
        if isinstance(said, dict) and isinstance(said.get("number"), int):
            found.append(Witness(f"the status of {name}", said["number"], str(said.get("hash", ""))))
    return found


def verify(ledger: Ledger, seen_by: Iterable[Witness]) -> list[Line]:
    """Check the chain and that every witness finds its line as it was; returns all lines.

    Raises:
        LedgerError: naming the first line that is changed, out of order, missing, or another one than a witness saw.
    """
    ledger.verify()
    lines = ledger.lines()
    for one in sorted(seen_by, key=lambda witness: witness.number):
        if one.number > len(lines):
            number = len(lines) + 1
            raise LedgerError(f"ledger line {number} is missing: {one.who} has seen line {one.number}", number, fix=FIX)
        line = lines[one.number - 1]
        if not line.hash.startswith(one.hash):
            raise LedgerError(
                f"ledger line {one.number} is another one than {one.who} has seen: its hash was {one.hash[:12]}, "
                f"it is {line.hash[:12]}",
                one.number,
                fix=FIX,
            )
        if one.digest and one.digest != line.digest:
            raise LedgerError(
                f"{one.who} names line {one.number} and version {one.digest[:12]}, the line is about {line.digest[:12]}",
                one.number,
                fix="Pointer or line was changed by hand; restore it",
            )
    return lines


def parse(text: str) -> Witness:
    """Return a line that a person has kept, `NUMBER:HASH`, the hash whole or its first 12 digits or more.

    Raises:
        EverstillError: it isn't one.
    """
    number, _, digits = text.partition(":")
    if not number.isdecimal() or not int(number) or len(digits) < 12:
        raise EverstillError(f"{text!r} is not NUMBER:HASH", fix="Give a line as a command printed it")
    return Witness("--at", int(number), digits)
