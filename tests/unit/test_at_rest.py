"""At rest: what was sealed opens with its key and in its place only, and what never was stays readable."""

import base64
import os

import pytest

from protos.errors import FormatError
from registry import at_rest
from registry.at_rest import AtRest, key_id
from registry.sections import AtRestSection

KEY, OLD = bytes(range(32)), bytes(32)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 25, 1000])
def test_what_is_sealed_opens_also_where_it_takes_several_parts(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_rest, "PART_BYTES", 10)
    plain = os.urandom(size)

    sealed = AtRest(KEY).seal(plain, b"here")

    assert AtRest(KEY).open(sealed, b"here") == plain
    assert size < 9 or plain not in sealed
    assert sealed.startswith(at_rest.MAGIC + key_id(KEY))


def test_without_a_key_nothing_is_sealed() -> None:
    assert AtRest().seal(b"plain", b"here") == b"plain"
    assert not AtRest().seals


def test_what_was_written_before_there_was_a_key_is_read_as_it_is() -> None:
    assert AtRest(KEY).open(b"plain", b"here") == b"plain"


def test_an_older_key_still_reads_and_never_writes() -> None:
    sealed = AtRest(OLD).seal(b"inputs", b"here")
    now = AtRest(KEY, OLD)

    assert now.open(sealed, b"here") == b"inputs"
    assert key_id(OLD) not in now.seal(b"inputs", b"here")


def test_a_key_that_is_gone_is_named_with_what_to_do() -> None:
    sealed = AtRest(OLD).seal(b"inputs", b"here")

    with pytest.raises(FormatError, match=rf"{key_id(OLD).hex()}.*at_rest\.previous_keys"):
        AtRest(KEY).open(sealed, b"here")


def test_the_same_bytes_are_never_sealed_alike() -> None:
    assert AtRest(KEY).seal(b"inputs", b"here") != AtRest(KEY).seal(b"inputs", b"here")


@pytest.mark.parametrize("harm", ["flipped", "cut", "cut to its header", "moved", "a part less"])
def test_what_was_changed_or_moved_does_not_open(harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_rest, "PART_BYTES", 10)
    sealed = AtRest(KEY).seal(bytes(25), b"here")
    changed = {
        "flipped": sealed[:40] + bytes([sealed[40] ^ 1]) + sealed[41:],
        "cut": sealed[:-1],
        "cut to its header": sealed[:30],
        "moved": sealed,
        "a part less": sealed[: -(5 + at_rest.TAG_BYTES)],
    }[harm]

    with pytest.raises(FormatError):
        AtRest(KEY).open(changed, b"there" if harm == "moved" else b"here")


def test_the_configuration_names_the_keys() -> None:
    section = AtRestSection.model_validate(
        {"key": base64.b64encode(KEY).decode(), "previous_keys": (base64.b64encode(OLD).decode(),)}
    )

    assert AtRest.of(section).open(AtRest(OLD).seal(b"inputs", b""), b"") == b"inputs"
    assert not AtRest.of(AtRestSection()).seals


def test_encryption_can_be_switched_off_and_older_keys_still_read() -> None:
    section = AtRestSection.model_validate({"previous_keys": (base64.b64encode(OLD).decode(),)})
    now = AtRest.of(section)

    assert not now.seals
    assert now.seal(b"inputs", b"") == b"inputs"
    assert now.open(AtRest(OLD).seal(b"inputs", b""), b"") == b"inputs"


def test_an_empty_older_key_is_refused() -> None:
    with pytest.raises(ValueError, match="empty key"):
        AtRestSection.model_validate({"previous_keys": ("",)})
