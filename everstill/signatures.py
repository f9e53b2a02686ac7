"""Who signed a version, in words: for `versions`, `show` and `signing-keys`. Reads the registry and no private key.

Decides what a missing or a refused signature is called; what is trusted is the configuration's business. One thread.
"""

from everstill.config import EverstillSettings
from registry.bundle import BundleError, signature_of
from registry.signing import Trust
from registry.store import NotFound, ObjectStore


class Signatures:
    """Tells of each version who signed it; each is looked at once."""

    def __init__(self, store: ObjectStore, settings: EverstillSettings) -> None:
        self._store = store
        self._trust = Trust.of(settings.signing)
        self._known: dict[str, dict[str, str]] = {"": {"state": "none", "key": "", "says": "no version"}}

    def of(self, digest: str) -> dict[str, str]:
        """Return `state` (signed, unsigned, unverified, gone, or why it would be refused), `key` and what that `says`."""
        if digest not in self._known:
            self._known[digest] = self._look(digest)
        return self._known[digest]

    def _look(self, digest: str) -> dict[str, str]:
        try:
            found = signature_of(self._store, digest, self._trust)
        except NotFound:
            return {"state": "gone", "key": "", "says": "its bundle is gone"}
        except BundleError as error:
            return {"state": error.reason, "key": "", "says": f"it would be refused: {error.message}"}
        if found.key:
            return {"state": "signed", "key": found.key, "says": f"signed by the key {found.key}, which is pinned"}
        if found.claimed:
            names = ", ".join(found.claimed)
            says = f"says that it is signed by {names}; no key is pinned, so that wasn't looked at"
            return {"state": "unverified", "key": names, "says": says}
        return {"state": "unsigned", "key": "", "says": "not signed, and signing.required is off"}
