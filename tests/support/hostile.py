"""Hostile bundles: forged, torn, oversized or poisonous, made by code, each with the reason that it has to be refused for.

`KEY` is the key that gateways pin; a bundle whose content is hostile is signed with it all the same, as by a loop that was taken over.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry import signing
from registry.bundle import GOLDEN, MANIFEST, MODEL, MODEL_DATA, SIGNATURES, SUMS
from registry.sections import SigningSection, TensorSpec
from registry.signing import Key, Signer
from registry.store import FolderStore
from tests.support.hostile_graphs import elsewhere, hostile_graphs
from tests.support.students import make_student_files

KEY, OTHER, LOST = (Key(Ed25519PrivateKey.from_private_bytes(bytes([place]) * 32)) for place in (1, 2, 3))
SIGNER = Signer([KEY])
SIGNING = SigningSection(public_keys=(KEY.text, LOST.text), revoked_keys=(LOST.id,), required=True)


@dataclasses.dataclass(frozen=True)
class Hostile:
    """One bundle: its files, what its sums say where that isn't the files, and its signatures (None is the pinned key's)."""

    reason: str
    files: Mapping[str, bytes]
    sums: bytes | None = None
    signatures: Callable[[bytes], bytes | None] | None = None

    def publish(self, store: FolderStore) -> str:
        """Write it as an attacker would, who needs no `write_bundle`."""
        sums = sums_of(self.files) if self.sums is None else self.sums
        signatures = SIGNER.sign(signing.BUNDLE, sums) if self.signatures is None else self.signatures(sums)
        return publish_raw(store, self.files, sums, signatures)


def sums_of(files: Mapping[str, bytes]) -> bytes:
    """Return the sums of any files, whatever their names."""
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()


def publish_raw(store: FolderStore, files: Mapping[str, bytes], sums: bytes, signatures: bytes | None = None) -> str:
    """Write any files, and sums that the address does fit."""
    digest = hashlib.sha256(sums).hexdigest()
    for path in store.list(f"bundles/{digest}"):
        store.delete(path)
    more = {SUMS: sums} if signatures is None else {SUMS: sums, SIGNATURES: signatures}
    for name, data in {**files, **more}.items():
        store.put(f"bundles/{digest}/{name}", data)
    return digest


def hostile_bundles(inputs: tuple[TensorSpec, ...], num_classes: int) -> dict[str, Hostile]:
    """Return every hostile bundle by name, made of a student of this model."""
    good = make_student_files(winner=2, inputs=inputs, num_classes=num_classes)
    graphs = {
        name: Hostile(reason, {**good, MODEL: data}) for name, (reason, data) in hostile_graphs(good[MODEL]).items()
    }
    return {**_forged(good), **_torn(good), **graphs, **_external(good), **_manifests(good), **_golden(good)}


def _forged(good: Mapping[str, bytes]) -> dict[str, Hostile]:
    def other_sums(sums: bytes) -> bytes:
        return SIGNER.sign(signing.BUNDLE, sums + b"\n")

    def flipped(sums: bytes) -> bytes:
        made = SIGNER.sign(signing.BUNDLE, sums)
        return made[:40] + (b"A" if made[40:41] != b"A" else b"B") + made[41:]

    def renamed(sums: bytes) -> bytes:
        return Signer([OTHER]).sign(signing.BUNDLE, sums).replace(OTHER.id.encode(), KEY.id.encode())

    signed: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
        "unsigned": ("unsigned", lambda sums: None),
        "signed for another bundle": ("wrong_signature", other_sums),
        "signed for another purpose": ("wrong_signature", lambda sums: SIGNER.sign("threshold", sums)),
        "a signature with a bit changed": ("wrong_signature", flipped),
        "another key's signature under the pinned name": ("wrong_signature", renamed),
        "an unknown key": ("unknown_key", lambda sums: Signer([OTHER]).sign(signing.BUNDLE, sums)),
        "a revoked key": ("revoked_key", lambda sums: Signer([LOST]).sign(signing.BUNDLE, sums)),
        "an empty signature file": ("torn_signature", lambda sums: b""),
        "a torn signature": ("torn_signature", lambda sums: SIGNER.sign(signing.BUNDLE, sums)[:-20]),
        "a signature that is none": ("torn_signature", lambda sums: b"ed25519 " + KEY.id.encode() + b" AAAA\n"),
        "nine signatures": ("torn_signature", lambda sums: SIGNER.sign(signing.BUNDLE, sums) * 9),
        "a megabyte of signatures": ("oversize", lambda sums: b"ed25519 " * 2**17),
    }
    return {
        name: Hostile(reason, numbered(good, place), signatures=made)
        for place, (name, (reason, made)) in enumerate(signed.items())
    }


def _torn(good: Mapping[str, bytes]) -> dict[str, Hostile]:
    sums = sums_of(good)
    listed = {
        "a library": "evil.so",
        "a path out": "../../escaped",
        "an absolute path": "/tmp/escaped",
        "its sums": SUMS,
    }
    reasons = {"evil.so": "unknown_file"}
    return {
        "a graph that was changed": Hostile("wrong_digest", {**good, MODEL: good[MODEL][:-1] + b"\0"}, sums),
        "a file that isn't listed": Hostile("unlisted_file", {**good, MODEL_DATA: b"weights"}, sums),
        "without its graph": Hostile("missing_file", {MANIFEST: good[MANIFEST], GOLDEN: good[GOLDEN]}, sums),
        "sums that are none": Hostile("bad_name", good, b"rm -rf /\n"),
        "a megabyte of sums": Hostile("oversize", good, b"0" * 2**20),
        **{
            f"{what} that is listed": Hostile(
                reasons.get(name, "bad_name"),
                {**good, **({name: b"x"} if name == "evil.so" else {})},
                sums + f"{'0' * 64}  {name}\n".encode(),
            )
            for what, name in listed.items()
        },
    }


def _external(good: Mapping[str, bytes]) -> dict[str, Hostile]:
    """Bundles whose weights lie in a file that is listed, but not where or as they say."""
    wrong = {
        "weights behind the file's end": {"offset": "8"},
        "weights of another length": {"length": "12"},
        "weights before the file": {"offset": "-1"},
        "weights at a number that is none": {"offset": "0x10"},
        "weights at a huge number": {"offset": "9" * 4000},
    }
    made = {}
    for name, entries in wrong.items():
        model = onnx.load_from_string(good[MODEL])
        elsewhere(location=MODEL_DATA, **entries)(model)
        made[name] = Hostile("external_data", {**good, MODEL: model.SerializeToString(), MODEL_DATA: b"\0" * 16})
    return made


def _manifests(good: Mapping[str, bytes]) -> dict[str, Hostile]:
    manifest = json.loads(good[MANIFEST])
    said = {
        "a manifest of megabytes": ("oversize", {**manifest, "student": {"a": "b" * 2**20}}),
        "a manifest that moves the cursor": ("bad_manifest", {**manifest, "teacher_version": "\x1b[2J"}),
        "a manifest of the future": ("bad_manifest", {**manifest, "schema_version": 2}),
    }
    made = {
        name: Hostile(reason, {**good, MANIFEST: json.dumps(body).encode()}) for name, (reason, body) in said.items()
    }
    deep = b'{"student": ' + b"[" * 100_000
    return {**made, "a manifest in a manifest": Hostile("bad_manifest", {**good, MANIFEST: deep})}


def _golden(good: Mapping[str, bytes]) -> dict[str, Hostile]:
    with zipfile.ZipFile(io.BytesIO(good[GOLDEN])) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    logits = "logits.npy"
    pickled = io.BytesIO()
    np.save(pickled, np.array([pathlib.Path("/tmp")], object), allow_pickle=True)
    huge = {**arrays, logits: header((2**40,))}
    archives = {
        "golden answers with a pickle": packed({**arrays, logits: pickled.getvalue()}),
        "golden answers that unfold": packed({**arrays, "bomb.npy": bytes(2**24)}, zipfile.ZIP_DEFLATED),
        "golden answers of terabytes": packed(huge),
        "golden answers of negative size": packed({**arrays, logits: header((-1, 5))}),
        "golden answers of objects in records": packed({**arrays, logits: header((1,), "[('a', '|O')]")}),
        "golden answers with a header too deep": packed({**arrays, logits: header((1,), "(" * 4000)}),
        "golden answers of a thousand arrays": packed({**arrays, **{f"{one}.npy": b"" for one in range(1000)}}),
        "golden answers that are none": b"PK\x05\x06" + bytes(18),
        "golden answers cut short": good[GOLDEN][:-30],
    }
    return {name: Hostile("wrong_golden", {**good, GOLDEN: data}) for name, data in archives.items()}


def numbered(good: Mapping[str, bytes], place: int) -> dict[str, bytes]:
    """Return the files of a version of its own."""
    return {**good, MANIFEST: json.dumps({**json.loads(good[MANIFEST]), "pairs_learned": place + 1}).encode()}


def packed(arrays: Mapping[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of members by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in arrays.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def header(shape: tuple[int, ...], dtype: str = "'<f4'") -> bytes:
    """Return a .npy file that says this shape and type, and has four bytes."""
    said = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said + b"1234"
