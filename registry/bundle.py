"""A bundle: one student version as data - a manifest, an ONNX graph, golden answers, the digests of all three, and who signed these.

Decides the layout, the address (SHA-256 of SHA256SUMS), and what sums, manifest and signatures have to be. Knows nothing of graphs and of serving. The
loop writes bundles; whoever loads one goes through `registry.fetching`. Nothing in a bundle is ever executed. See docs/formats.md and docs/security.md.
Safe from any thread and any process.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from typing import Literal

import pydantic

from protos.errors import FormatError, plain
from registry import signing
from registry.graph_check import wire
from registry.sections import Section, TensorSpec
from registry.signing import SignatureError, Signer, Trust
from registry.store import NotFound, ObjectStore, TooLarge

MANIFEST = "manifest.json"
MODEL = "model.onnx"
GOLDEN = "golden.npz"
#: Weights that don't fit into `model.onnx`.
MODEL_DATA = "model.onnx.data"
SUMS = "SHA256SUMS"
#: Signatures over SHA256SUMS, which doesn't list it: they come and go without making another version.
SIGNATURES = "SHA256SUMS.sig"
REQUIRED = frozenset({MANIFEST, MODEL, GOLDEN})
FILES = REQUIRED | {MODEL_DATA}
VERSION_DIGITS = 12
#: Files larger than this are refused before they are read; of all together the limit is a setting.
MAX_FILE_BYTES = {MANIFEST: 2**20, GOLDEN: 2**28, SUMS: 2**16, SIGNATURES: signing.MAX_BYTES}
_SUMS_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

Reason = (
    Literal["missing_file", "wrong_digest", "unlisted_file", "unknown_file", "bad_manifest", "bad_name", "oversize"]
    | signing.Reason
    | wire.Reason
)


class BundleError(FormatError):
    """A bundle that is torn, tampered with or not one. `reason` is a short slug for metrics."""

    def __init__(
        self, message: str, reason: Reason, *, fix: str = "It is not loaded; publish the version again"
    ) -> None:
        super().__init__(plain(message), fix=fix)
        self.reason = reason


class Manifest(Section):
    """What a version is and where it comes from."""

    schema_version: Literal[1] = 1
    model: str
    created: str
    origin: Literal["bootstrap", "candidate"]
    parent: str | None
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    teacher_version: str
    pairs_learned: int
    steps: int
    parity_max_abs: float
    student: dict[str, int | float | str]
    newest_pair_unix_s: float = 0.0

    @pydantic.field_validator("model", "created", "teacher_version")
    @classmethod
    def _printable(cls, value: str) -> str:
        return _plain(value)

    @pydantic.field_validator("student")
    @classmethod
    def _printable_facts(cls, value: dict[str, int | float | str]) -> dict[str, int | float | str]:
        for text in (*value, *(one for one in value.values() if isinstance(one, str))):
            _plain(text)
        return value


def _plain(text: str) -> str:
    """Return a text that may be shown to a person: what moves a terminal's cursor may not."""
    if not text.isprintable():
        raise ValueError("holds a character that can't be printed")
    return text


def version_of(digest: str) -> str:
    """Return the version name of a bundle: the first hex digits of its digest."""
    return digest[:VERSION_DIGITS]


def write_bundle(store: ObjectStore, files: Mapping[str, bytes], signer: Signer | None = None) -> str:
    """Write a bundle and return its digest. SHA256SUMS goes last: a bundle without it is not one.

    Writing the same files again is fine, and mends one that was torn.

    Raises:
        BundleError: a required file is missing, or a name that no file may have.
    """
    _check_names(files)
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()
    digest = hashlib.sha256(sums).hexdigest()
    for name in sorted(files):
        store.put(f"bundles/{digest}/{name}", files[name])
    if signer is not None:
        store.put(f"bundles/{digest}/{SIGNATURES}", signer.sign(signing.BUNDLE, sums))
    store.put(f"bundles/{digest}/{SUMS}", sums)
    return digest


def sign_bundle(store: ObjectStore, digest: str, signer: Signer) -> None:
    """Sign a bundle that was published; whoever asks for it has looked at what it is. Signatures of other keys stay.

    Raises:
        BundleError: its sums aren't those that its address names. NotFound: there is no such bundle.
    """
    prefix = f"bundles/{digest}"
    sums = read_small(store, prefix, SUMS)
    check_sums(sums, digest)
    try:
        others = read_small(store, prefix, SIGNATURES)
        signed = signer.sign(signing.BUNDLE, sums, others)
    except (NotFound, SignatureError, BundleError):  # none yet, or one that is no use
        signed = signer.sign(signing.BUNDLE, sums)
    store.put(f"{prefix}/{SIGNATURES}", signed)


@dataclasses.dataclass(frozen=True)
class Signature:
    """Who signed a version. key: the trusted key's id, empty where none has to be; claimed: the ids that its signatures name."""

    key: str
    claimed: tuple[str, ...] = ()


def signature_of(store: ObjectStore, digest: str, trust: Trust) -> Signature:
    """Return who signed a version, without fetching it (for display; loading goes through `registry.fetching`).

    Raises:
        BundleError: nobody who is trusted did; `reason` says why. NotFound: there is no such bundle.
    """
    prefix = f"bundles/{digest}"
    sums = read_small(store, prefix, SUMS)
    check_sums(sums, digest)
    try:
        signatures = read_small(store, prefix, SIGNATURES)
    except NotFound:
        return Signature(vouched(sums, None, digest, trust))
    key = vouched(sums, signatures, digest, trust)
    return Signature(key, signing.named_keys(signatures))


def read_manifest(store: ObjectStore, digest: str) -> Manifest:
    """Return a version's manifest without fetching its weights (for display; loading goes through `fetch_bundle`)."""
    return parse_manifest(read_small(store, f"bundles/{digest}", MANIFEST), digest)


def read_small(store: ObjectStore, prefix: str, name: str) -> bytes:
    """Return one of a bundle's small files; raises NotFound, or BundleError where it isn't small."""
    try:
        return store.get(f"{prefix}/{name}", max_bytes=MAX_FILE_BYTES[name]).data
    except TooLarge as error:
        raise BundleError(error.message, "oversize") from None


def vouched(sums: bytes, signatures: bytes | None, digest: str, trust: Trust) -> str:
    """Return the id of the trusted key that signed a bundle's sums, empty where nobody had to."""
    try:
        return trust.verify(signing.BUNDLE, sums, signatures)
    except SignatureError as error:
        raise BundleError(f"bundle {version_of(digest)} {error.message}", error.reason, fix=error.fix) from None


def check_sums(sums: bytes, digest: str) -> None:
    """Check that these are the sums that an address names; raises BundleError."""
    if hashlib.sha256(sums).hexdigest() != digest:
        raise BundleError(
            f"{SUMS} of bundle {version_of(digest)} is not the one that its address names", "wrong_digest"
        )


def parse_sums(sums: bytes, digest: str) -> dict[str, str]:
    """Return the digest of each file that sums list; raises BundleError where a line or a name is none."""
    listed: dict[str, str] = {}
    for line in sums.decode("utf-8", "replace").splitlines():
        match = _SUMS_LINE.fullmatch(line)
        if match is None or match[2] in listed:
            raise BundleError(
                f"{SUMS} of bundle {version_of(digest)} has a line that isn't one: {line[:80]!r}", "bad_name"
            )
        listed[match[2]] = match[1]
    _check_names(listed)
    return listed


def _check_names(names: Mapping[str, object]) -> None:
    for name in names:
        if not _NAME.fullmatch(name) or name in (SUMS, SIGNATURES):
            raise BundleError(f"no file of a bundle may be named {name!r}", "bad_name")
        if name not in FILES:
            raise BundleError(f"a bundle has no file {name!r}", "unknown_file")
    if missing := REQUIRED - set(names):
        raise BundleError(f"a bundle needs {', '.join(sorted(missing))}", "missing_file")


def parse_manifest(data: bytes, digest: str) -> Manifest:
    """Return a manifest; raises BundleError where it is none."""
    try:
        return Manifest.model_validate_json(data)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BundleError(
            f"the manifest of {version_of(digest)} is wrong at {place or 'its start'}: {first['msg']}", "bad_manifest"
        ) from None
