"""The newest ledger line that a gateway has seen, for its status object: a witness where lines are cut off afterwards.

Decides nothing and serves nothing: a ledger that can't be read leaves what was seen as it is. Main thread of the gateway's parent.
"""

from typing import Any

from protos.errors import EverstillError
from registry.ledger import Ledger, Line
from registry.witnesses import seen


class LastLine:
    """Follows one model's ledger; a look costs one read where nothing is new."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._line: Line | None = None

    def look(self) -> dict[str, Any] | None:
        """Return number and hash of the newest line, None before the first."""
        try:
            if self._line is None:
                self._line = self._ledger.last()
            else:
                for line in self._ledger.newer(self._line.number):
                    self._line = line
        except EverstillError:
            pass
        return seen(self._line)
