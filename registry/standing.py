"""What follows from a ledger: which version is live and why, what came before it, what holds it there, what the last resort is.

Decides what a line means for those after it, and how the live pointer is made to follow. Whoever was killed between a line and the pointer is
finished by whoever looks next, the loop or a command: `apply_ledger` is the one way. Knows no gate. Any thread, any process.
"""

import dataclasses
from collections.abc import Sequence

from protos.errors import EverstillError
from registry.bundle import version_of
from registry.ledger import Ledger, Line
from registry.pointers import Live, PointerMoved, Pointers
from registry.store import Moved


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a ledger stands.

    newest: the newest line; moving: the newest that moved the live version; arrival: the line by which the live version came to serve, which an added pin leaves as it is;
    stack: digests that one could go back to, the live one last; served: every digest that was ever live; pin, freeze: the lines that hold now; floor: the line that named the last resort.
    """

    newest: Line | None = None
    moving: Line | None = None
    arrival: Line | None = None
    stack: tuple[str, ...] = ()
    served: frozenset[str] = frozenset()
    pin: Line | None = None
    freeze: Line | None = None
    floor: Line | None = None

    @classmethod
    def of(cls, lines: Sequence[Line]) -> "Standing":
        """Return where these lines lead, all of a ledger's, oldest first."""
        standing = cls()
        for line in lines:
            standing = standing.after(line)
        return standing

    def after(self, line: Line) -> "Standing":
        """Return where one more line leads."""
        changes: dict[str, object] = {"newest": line}
        if line.moves_live:
            changes |= {"moving": line, "served": self.served | {line.digest}}
            if line.digest != self.live:
                changes["arrival"] = line
            if line.digest in self.stack and line.kind != "promote":
                changes["stack"] = self.stack[: self.stack.index(line.digest) + 1]
            else:
                changes["stack"] = (*(one for one in self.stack if one != line.digest), line.digest)
        if line.kind in ("pin", "unpin"):
            changes["pin"] = line if line.kind == "pin" else None
        if line.kind in ("freeze", "unfreeze"):
            changes["freeze"] = line if line.kind == "freeze" else None
        if line.kind == "floor" or (line.moves_live and self.floor is None):
            changes["floor"] = line
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    @property
    def live(self) -> str | None:
        """Digest of the live version, None before the first."""
        return self.moving.digest if self.moving else None

    @property
    def predecessor(self) -> str | None:
        """Digest of the version that served before the live one; what was rolled back is none."""
        return self.stack[-2] if len(self.stack) > 1 else None

    @property
    def hold(self) -> Line | None:
        """The line because of which the loop promotes nothing now, None where it may."""
        return self.pin or self.freeze

    @property
    def kept(self) -> frozenset[str]:
        """Digests whose bundles nothing may ever remove: what serves, what one could go back to, and the last resort."""
        return frozenset(self.stack) | ({self.floor.digest} if self.floor else frozenset())


def sentence_of(hold: Line) -> str:
    """Return why nothing is promoted now."""
    reason = f": {hold.evidence['reason']}" if hold.evidence.get("reason") else ""
    what = f"version {version_of(hold.digest)} is pinned" if hold.kind == "pin" else "promotions are frozen"
    return f"{what} since line {hold.number} by {hold.actor}{reason}"


def apply_ledger(ledger: Ledger, pointers: Pointers, epoch: int | None = None) -> Standing:
    """Make the live pointer say what the newest moving line says, and return where the ledger stands; may be repeated at any time.

    Args:
        epoch: of the mover's lease; None is a command, which has none and leaves the pointer's as it is.

    Raises:
        StaleEpoch: a newer holder of the lease has moved the pointer. LedgerError: the ledger is damaged.
    """
    while True:
        live = pointers.live()
        standing = Standing.of(ledger.uncut())
        line = standing.moving
        if line is None or (live is not None and live.ledger_line >= line.number):
            return standing
        known = live.epoch if live else 0
        try:
            pointers.move_live(
                Live(digest=line.digest, ledger_line=line.number, epoch=known if epoch is None else epoch), live
            )
        except (PointerMoved, Moved):
            continue  # by somebody who applied the same line, or a newer one
        return standing


def find_digest(version: str, known: Sequence[str], model: str) -> str:
    """Return the one known digest that begins like this.

    Raises:
        EverstillError: none does, or more than one.
    """
    digests = sorted({digest for digest in known if digest.startswith(version)})
    if len(digests) != 1:
        names = ", ".join(sorted({version_of(digest) for digest in known})) or "none yet"
        what = "no version begins" if not digests else f"{len(digests)} versions begin"
        raise EverstillError(f"{what} with {version!r} in model {model}", fix=f"Known are: {names}")
    return digests[0]
