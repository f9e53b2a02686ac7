"""Keys and signatures: who may sign, what a signature says, and how keys are changed without a version that can't be loaded."""

import base64
import os
import pathlib
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from protos.errors import ConfigurationError, ConflictError, UnavailableError
from registry.bundle import SIGNATURES, SUMS, BundleError, sign_bundle, signature_of, write_bundle
from registry.fetching import Policy, fetch_bundle
from registry.sections import SigningSection
from registry.signing import (
    BUNDLE,
    MAX_SIGNATURES,
    SignatureError,
    Signer,
    Trust,
    create_key,
    drop_key,
    named_keys,
    read_keys,
    rotate_key,
    signer_for,
)
from registry.store import ObjectStore, open_store
from tests.support.hostile import KEY, LOST, OTHER, SIGNER
from tests.support.students import make_student_files

DATA = b"sums"
FILES = make_student_files()


def trusting(*keys: object, revoked: tuple[str, ...] = (), required: bool = True) -> Trust:
    texts = tuple(key.text for key in keys)  # type: ignore[attr-defined]
    return Trust.of(SigningSection(public_keys=texts, revoked_keys=revoked, required=required and bool(keys)))


@pytest.fixture
def store() -> ObjectStore:
    return open_store("memory://")


def test_a_signature_is_plain_ed25519_over_the_bytes_that_the_page_says() -> None:
    line = SIGNER.sign(BUNDLE, DATA).split()

    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(KEY.text.removeprefix("ed25519:")))

    assert line[:2] == [b"ed25519", KEY.id.encode()]
    public.verify(base64.b64decode(line[2]), b"everstill signature 1\0bundle\0sums")


def test_the_format_of_keys_and_signatures_is_pinned() -> None:
    assert KEY.id == "34750f98bd59fcfc"
    assert KEY.text == "ed25519:iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="


@pytest.mark.parametrize("purpose", ["threshold", "", "bundl"])
def test_a_signature_for_one_purpose_is_none_for_another(purpose: str) -> None:
    with pytest.raises(SignatureError, match="is of other bytes"):
        trusting(KEY).verify(BUNDLE, DATA, SIGNER.sign(purpose, DATA))


def test_one_trusted_signature_of_several_is_enough_and_says_whose_it_is() -> None:
    signatures = Signer([OTHER, LOST, KEY]).sign(BUNDLE, DATA)

    assert trusting(KEY, LOST, revoked=(LOST.id,)).verify(BUNDLE, DATA, signatures) == KEY.id


def test_an_unsigned_thing_passes_only_where_no_signature_is_required() -> None:
    assert trusting(KEY, required=False).verify(BUNDLE, DATA, None) == ""
    with pytest.raises(SignatureError) as refusal:
        trusting(KEY).verify(BUNDLE, DATA, None)
    assert refusal.value.reason == "unsigned"


def test_without_a_pinned_key_a_signature_is_not_looked_at_unless_its_key_is_revoked() -> None:
    signatures = Signer([OTHER]).sign(BUNDLE, DATA)

    assert trusting().verify(BUNDLE, b"other", signatures) == ""
    with pytest.raises(SignatureError) as refusal:
        trusting(revoked=(OTHER.id,)).verify(BUNDLE, DATA, signatures)
    assert refusal.value.reason == "revoked_key"


def test_a_signature_of_nobody_who_is_pinned_is_refused_even_where_none_is_required() -> None:
    with pytest.raises(SignatureError) as refusal:
        trusting(KEY, required=False).verify(BUNDLE, DATA, Signer([OTHER]).sign(BUNDLE, DATA))
    assert refusal.value.reason == "unknown_key"


def test_a_key_is_made_for_its_owner_alone_and_never_overwritten(tmp_path: pathlib.Path) -> None:
    before = os.umask(0)
    try:
        key = create_key(tmp_path / "key.pem")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert [one.text for one in read_keys(tmp_path / "key.pem").keys] == [key.text]
    assert "private" not in repr(key)
    with pytest.raises(ConflictError, match="no key is overwritten"):
        create_key(tmp_path / "key.pem")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o644, 0o666])
def test_a_key_that_others_can_read_or_change_is_refused(tmp_path: pathlib.Path, mode: int) -> None:
    create_key(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(mode)

    with pytest.raises(ConfigurationError, match=f"mode {mode:o}.*chmod 600"):
        read_keys(tmp_path / "key.pem")


def test_a_key_that_is_mounted_for_a_group_is_read(tmp_path: pathlib.Path) -> None:
    key = create_key(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o440)

    assert read_keys(tmp_path / "key.pem").keys[0].id == key.id


def test_what_is_no_key_file_is_said_to_be_none(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(UnavailableError, match="cannot read the private key"):
        read_keys(path)
    path.touch(0o600)
    with pytest.raises(ConfigurationError, match="holds no private key"):
        read_keys(path)
    path.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(ConfigurationError, match="not ed25519"):
        read_keys(path)
    path.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigurationError, match="can't be read"):
        read_keys(path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigurationError, match="is not a file"):
        read_keys(path)


def test_through_a_rotation_every_gateway_can_load_what_is_published(
    tmp_path: pathlib.Path, store: ObjectStore
) -> None:
    path = tmp_path / "key.pem"
    old = create_key(path)

    new, both = rotate_key(path)
    digest = write_bundle(store, FILES, both)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [key.id for key in read_keys(path).keys] == [new.id, old.id]
    for trust, by in ((trusting(old), old), (trusting(old, new), new), (trusting(new), new)):
        assert fetch_bundle(store, digest, tmp_path / "cache", Policy(trust)).signed_by == by.id
    assert [key.id for key in drop_key(path, old.id).keys] == [new.id]
    with pytest.raises(ConfigurationError, match="the only key"):
        drop_key(path, new.id)
    with pytest.raises(ConfigurationError, match="holds no key"):
        drop_key(path, old.id)


def test_a_file_holds_as_many_keys_as_a_signature_has_lines(tmp_path: pathlib.Path) -> None:
    create_key(tmp_path / "key.pem")
    for _ in range(MAX_SIGNATURES - 1):
        rotate_key(tmp_path / "key.pem")

    with pytest.raises(ConfigurationError, match="Drop old ones"):
        rotate_key(tmp_path / "key.pem")


def test_a_version_is_signed_later_without_becoming_another(tmp_path: pathlib.Path, store: ObjectStore) -> None:
    digest = write_bundle(store, FILES)
    sign_bundle(store, digest, Signer([OTHER]))

    sign_bundle(store, digest, SIGNER)

    assert named_keys(store.get(f"bundles/{digest}/{SIGNATURES}").data) == (KEY.id, OTHER.id)
    assert fetch_bundle(store, digest, tmp_path, Policy(trusting(KEY))).signed_by == KEY.id
    assert fetch_bundle(store, digest, tmp_path, Policy(trusting(OTHER))).signed_by == OTHER.id


def test_what_is_not_the_bundle_of_its_address_is_not_signed(store: ObjectStore) -> None:
    digest = write_bundle(store, FILES)
    store.put(f"bundles/{digest}/{SUMS}", b"other sums")

    with pytest.raises(BundleError, match="not the one that its address names"):
        sign_bundle(store, digest, SIGNER)


def test_a_copy_in_the_cache_is_held_to_the_keys_of_today(tmp_path: pathlib.Path, store: ObjectStore) -> None:
    digest = write_bundle(store, FILES, SIGNER)
    copy = fetch_bundle(store, digest, tmp_path, Policy(trusting(KEY)))

    with pytest.raises(BundleError) as refusal:
        fetch_bundle(store, digest, tmp_path, Policy(trusting(KEY, OTHER, revoked=(KEY.id,))))

    assert refusal.value.reason == "revoked_key"
    assert not copy.folder.exists()


def test_a_copy_is_not_copied_again_for_a_new_signature(tmp_path: pathlib.Path, store: ObjectStore) -> None:
    digest = write_bundle(store, FILES)
    copy = fetch_bundle(store, digest, tmp_path, Policy())
    for path in store.list("bundles"):
        if not path.endswith(SUMS):
            store.delete(path)
    sign_bundle(store, digest, SIGNER)

    again = fetch_bundle(store, digest, tmp_path, Policy(trusting(KEY)))

    assert (again.folder, again.signed_by) == (copy.folder, KEY.id)


def test_a_signature_is_told_without_fetching_the_version(store: ObjectStore) -> None:
    digest = write_bundle(store, FILES, SIGNER)

    assert signature_of(store, digest, trusting(KEY)).key == KEY.id
    assert signature_of(store, digest, trusting()).claimed == (KEY.id,)
    with pytest.raises(BundleError, match="which isn't among"):
        signature_of(store, digest, trusting(OTHER))


@pytest.mark.parametrize(
    "settings",
    [
        {"required": True},
        {"public_keys": ["ed25519:AAAA"]},
        {"public_keys": ["rsa:" + "A" * 43 + "="]},
        {"public_keys": [KEY.text[8:]]},
        {"revoked_keys": [KEY.text]},
    ],
)
def test_settings_that_can_not_be_meant_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"signing-keys show|no version could be loaded"):
        SigningSection.model_validate(settings)


def test_a_loop_whose_versions_nobody_could_load_does_not_start(tmp_path: pathlib.Path) -> None:
    key = create_key(tmp_path / "key.pem")

    assert signer_for(SigningSection()) is None
    signer = signer_for(SigningSection(key_file=tmp_path / "key.pem", public_keys=(key.text,), required=True))
    assert signer is not None
    with pytest.raises(ConfigurationError, match="names no private key"):
        signer_for(SigningSection(public_keys=(key.text,), required=True))
    with pytest.raises(ConfigurationError, match="has no key of"):
        signer_for(SigningSection(key_file=tmp_path / "key.pem", public_keys=(OTHER.text,)))
