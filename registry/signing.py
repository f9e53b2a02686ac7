"""Signatures: who made a thing of the registry, told by ed25519 keys that whoever loads it has pinned.

Decides what a key, a key's id and a signature file look like, what exactly is signed, and whose signature is enough. Knows nothing of what it signs
but its `purpose`, which is signed too: a signature on a bundle's sums is none on anything else. Bytes are in docs/formats.md, threats in
docs/security.md. Private keys are read by who signs alone. Safe from any thread.
"""

import base64
import binascii
import dataclasses
import hashlib
import os
import pathlib
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Literal, NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protos.errors import ConfigurationError, ConflictError, FormatError, UnavailableError
from registry.sections import SigningSection, public_key_bytes
from registry.store import sync_folder

#: What stands before the signed bytes; a purpose holds no NUL.
MAGIC = b"everstill signature 1\0"
#: The purpose of a signature over a bundle's SHA256SUMS.
BUNDLE = "bundle"
MAX_SIGNATURES = 8
#: A signature file may have this many bytes; eight lines have fewer.
MAX_BYTES = 2048
#: What others may not have on a private key's file: a secret that is mounted for a group may be read by it.
FORBIDDEN_MODE = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP
MAX_KEY_FILE_BYTES = 2**16
_LINE = re.compile(rb"ed25519 ([0-9a-f]{16}) ([A-Za-z0-9+/]{86}==)")
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----", re.DOTALL)

Reason = Literal["unsigned", "torn_signature", "wrong_signature", "unknown_key", "revoked_key"]


class SignatureError(FormatError):
    """Nobody who is trusted has signed this. `reason` is a short slug for metrics."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message, fix="See docs/security.md for how a version comes to its signature")
        self.reason = reason


def key_id(public_key: bytes) -> str:
    """Return the 16 hex digits that name a public key of 32 bytes."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def signed_bytes(purpose: str, data: bytes) -> bytes:
    """Return what is signed: never the data alone, so that no signature stands for something else."""
    return MAGIC + purpose.encode() + b"\0" + data


@dataclasses.dataclass(frozen=True)
class Key:
    """A private key, and how the configuration writes its public one."""

    private: Ed25519PrivateKey = dataclasses.field(repr=False)

    @property
    def public(self) -> bytes:
        """Its public key's 32 bytes."""
        return self.private.public_key().public_bytes_raw()

    @property
    def id(self) -> str:
        """Its name."""
        return key_id(self.public)

    @property
    def text(self) -> str:
        """Its public key, as `signing.public_keys` takes it."""
        return f"ed25519:{base64.b64encode(self.public).decode()}"


class Signer:
    """Signs with every key of a private key file, so that old and new keys are both known while they are changed."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = tuple(keys)

    def sign(self, purpose: str, data: bytes, others: bytes = b"") -> bytes:
        """Return a signature file: a line for each key, then those lines of another one that are by other keys, as far as there is room."""
        lines = [
            b"ed25519 %s %s\n" % (key.id.encode(), base64.b64encode(key.private.sign(signed_bytes(purpose, data))))
            for key in self.keys
        ]
        ours = {key.id for key in self.keys}
        lines += [
            b"ed25519 %s %s\n" % (name.encode(), base64.b64encode(signature))
            for name, signature in (_parse(others) if others else [])
            if name not in ours
        ]
        return b"".join(lines[:MAX_SIGNATURES])


@dataclasses.dataclass(frozen=True)
class Trust:
    """Whose signature is enough.

    Args:
        keys: pinned public keys by id. With any, a signature that is there has to be one of theirs.
        revoked: ids of keys that were lost; they count for nothing, pinned or not.
        required: whether what isn't signed is refused too.
    """

    keys: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    revoked: frozenset[str] = frozenset()
    required: bool = False

    @classmethod
    def of(cls, settings: SigningSection) -> "Trust":
        """Return what the configuration says."""
        pinned = [public_key_bytes(text) for text in settings.public_keys]
        revoked = frozenset(settings.revoked_keys)
        keys = {key_id(key): key for key in pinned if key_id(key) not in revoked}
        return cls(keys, revoked, settings.required)

    def verify(self, purpose: str, data: bytes, signatures: bytes | None) -> str:
        """Return the id of a trusted key that has signed these bytes for this purpose; empty where none has, and none has to.

        Args:
            signatures: a signature file's bytes, or None where there is none.

        Raises:
            SignatureError: nobody who is trusted has signed it.
        """
        if signatures is None:
            if self.required:
                raise SignatureError("isn't signed, and signing.required is on", "unsigned")
            return ""
        named = _parse(signatures)
        message = signed_bytes(purpose, data)
        for name, signature in named:
            if name in self.keys and _is_valid(self.keys[name], signature, message):
                return name
        if not self.keys and not self.required and not any(name in self.revoked for name, _ in named):
            return ""  # nobody is pinned: whose it is can't be told
        self._refuse([name for name, _ in named])

    def _refuse(self, names: Sequence[str]) -> NoReturn:
        if wrong := [name for name in names if name in self.keys]:
            raise SignatureError(
                f"isn't what the key {wrong[0]} signed: its signature is of other bytes", "wrong_signature"
            )
        if lost := [name for name in names if name in self.revoked]:
            raise SignatureError(f"is signed by the key {lost[0]}, which is revoked", "revoked_key")
        raise SignatureError(
            f"is signed by the key {', '.join(names)}, which isn't among signing.public_keys", "unknown_key"
        )


def named_keys(signatures: bytes) -> tuple[str, ...]:
    """Return the ids that a signature file names, whoever they are; raises SignatureError where it isn't one."""
    return tuple(name for name, _ in _parse(signatures))


def read_keys(path: pathlib.Path) -> Signer:
    """Return the keys of a private key file, the newest first.

    Raises:
        ConfigurationError: others may read or change it, or it holds something else than ed25519 keys.
        UnavailableError: it can't be read.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigurationError(f"signing.key_file {path} is not a file", fix="Name a PEM file")
            if found.st_mode & FORBIDDEN_MODE:
                raise ConfigurationError(
                    f"the private key {path} can be read or changed by others (mode {found.st_mode & 0o777:o})",
                    fix=f"chmod 600 {path}; where others may have read it, make another key and revoke this one",
                )
            text = file.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise UnavailableError(
            f"cannot read the private key {path}: {error.strerror}",
            fix="Name it with signing.key_file, or make one with everstill signing-keys create",
        ) from None
    keys = [_private(match[0], path) for match in _PEM.finditer(text)]
    if not keys:
        raise ConfigurationError(
            f"{path} holds no private key", fix="Make one with everstill signing-keys create --file"
        )
    return Signer(keys)


def signer_for(settings: SigningSection) -> Signer | None:
    """Return who signs what is published here; None where nobody does.

    Raises:
        ConfigurationError: what would be published here could be loaded by nobody. UnavailableError: the key can't be read.
    """
    trust = Trust.of(settings)
    if settings.key_file is None:
        if settings.required:
            raise ConfigurationError(
                "signing.required is on and signing.key_file names no private key: nobody could load what is published here",
                fix="Name one; everstill signing-keys create makes it",
            )
        return None
    signer = read_keys(settings.key_file)
    if settings.public_keys and not any(key.id in trust.keys for key in signer.keys):
        known = ", ".join(key.id for key in signer.keys)
        raise ConfigurationError(
            f"signing.public_keys has no key of {settings.key_file} ({known}): nobody could load what is published here",
            fix="Add its public key, everstill signing-keys show prints it",
        )
    return signer


def create_key(path: pathlib.Path) -> Key:
    """Make a key in a new file that its owner alone can read.

    Raises:
        ConflictError: the file exists. UnavailableError: it can't be written.
    """
    key = Key(Ed25519PrivateKey.generate())
    try:
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(_pem(key))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except FileExistsError:
        raise ConflictError(
            f"{path} is there already, and no key is overwritten", fix="everstill signing-keys rotate adds a newer key"
        ) from None
    except OSError as error:
        raise UnavailableError(f"cannot write {path}: {error.strerror}", fix="Name another file") from None
    return key


def rotate_key(path: pathlib.Path) -> tuple[Key, Signer]:
    """Put a new key before those of a private key file, which sign on beside it; returns it, and all.

    Raises:
        ConfigurationError, UnavailableError: as `read_keys`, or there are as many keys as a signature file has lines.
    """
    old = read_keys(path)
    if len(old.keys) >= MAX_SIGNATURES:
        raise ConfigurationError(f"{path} holds {len(old.keys)} keys", fix="Drop old ones: everstill signing-keys drop")
    signer = Signer([Key(Ed25519PrivateKey.generate()), *old.keys])
    _replace(path, signer.keys)
    return signer.keys[0], signer


def drop_key(path: pathlib.Path, name: str) -> Signer:
    """Take a key out of a private key file, and return what is left.

    Raises:
        ConfigurationError: it isn't there, or is the only one.
    """
    signer = read_keys(path)
    left = [key for key in signer.keys if key.id != name]
    if len(left) == len(signer.keys):
        known = ", ".join(key.id for key in signer.keys)
        raise ConfigurationError(f"{path} holds no key {name!r}", fix=f"It holds {known}")
    if not left:
        raise ConfigurationError(f"{name} is the only key of {path}", fix="Make a newer one first: signing-keys rotate")
    _replace(path, left)
    return Signer(left)


def _replace(path: pathlib.Path, keys: Sequence[Key]) -> None:
    target = path.resolve()
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            with open(staged, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(b"".join(map(_pem, keys)))
                file.flush()
                os.fsync(file.fileno())
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)
        sync_folder(target.parent)
    except OSError as error:
        raise UnavailableError(
            f"cannot write {path}: {error.strerror}", fix="The keys in it are what they were"
        ) from None


def _pem(key: Key) -> bytes:
    return key.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _private(pem: bytes, path: pathlib.Path) -> Key:
    try:
        private = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"a key in {path} can't be read: {error}") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigurationError(f"{path} holds a key that is not ed25519", fix="Use everstill signing-keys create")
    return Key(private)


def _is_valid(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _parse(data: bytes) -> list[tuple[str, bytes]]:
    """Return key ids and signatures of a signature file's lines."""
    lines = data.split(b"\n")
    matches = [_LINE.fullmatch(line) for line in lines[:-1]]
    if len(data) > MAX_BYTES or lines[-1] or not matches or len(matches) > MAX_SIGNATURES:
        raise SignatureError("has a signature file that isn't one", "torn_signature")
    named = []
    for match in matches:
        if match is None:
            raise SignatureError("has a signature file with a line that isn't one", "torn_signature")
        try:
            named.append((match[1].decode(), base64.b64decode(match[2], validate=True)))
        except binascii.Error:
            raise SignatureError("has a signature that isn't base64", "torn_signature") from None
    return named
