"""Opening the registry to look at it, or to decide something about what is in it: unlike a process that works, a command makes no folder.

Decides nothing. Used by the commands that read the registry.
"""

import pathlib
from collections.abc import Sequence

from everstill.config import EverstillSettings
from protos.errors import UnavailableError
from registry.ledger import Line
from registry.pointers import Trial
from registry.store import ObjectStore, open_store


def existing_store(settings: EverstillSettings) -> ObjectStore:
    """Return the registry's store.

    Raises:
        UnavailableError: there is no registry, or it can't be opened.
    """
    url = settings.registry.url
    if "://" not in url and not pathlib.Path(url).is_dir():
        raise UnavailableError(
            f"there is no registry at {url}",
            fix="Name the service's configuration with --config, or start a gateway or a loop first",
        )
    return open_store(url)


def known_digests(lines: Sequence[Line], trial: Trial | None) -> list[str]:
    """Return the digests that a command may be given: those of the ledger, and the candidate on trial."""
    return [*(line.digest for line in lines if line.digest), *([trial.candidate] if trial else [])]
