"""What `everstill doctor` looks at of signatures: whether versions are signed here, whose are loaded, and whether that fits together. Reads only."""

from collections.abc import Iterator

from everstill.config import EverstillSettings
from everstill.doctor.check import Check, attempt, ok, warn
from registry.signing import Trust, signer_for


def trust(settings: EverstillSettings) -> Iterator[Check]:
    """Check the keys that versions are signed with and checked against."""
    signing = settings.signing
    trusted = Trust.of(signing)
    if signing.key_file is None and not trusted.keys:
        yield ok("signing", "off: any version that is whole is loaded, signed or not")
        return

    def look() -> Check | str:
        here = "versions aren't signed here"
        if signing.key_file is not None:
            signer = signer_for(signing)
            assert signer is not None
            here = f"versions are signed here by {', '.join(key.id for key in signer.keys)}"
        lost = f", {len(signing.revoked_keys)} revoked" if signing.revoked_keys else ""
        num = len(trusted.keys)
        loaded = f"{here}; loaded are those of {num} pinned key{'' if num == 1 else 's'}{lost}"
        if signing.required:
            return loaded
        fix = "Sign what is there (everstill signing-keys sign VERSION), then set signing.required"
        return warn("signing", f"{loaded}, and those that nobody signed", fix)

    yield from attempt("signing", look)
