"""The sections of `everstill.toml` that every process reads: one class for each table. Known by everybody, knows no logic.

`registry.config` reads the file; a room's own sections live in that room (`serving/config.py`, `distill_loop/config.py`).
"""

import base64
import binascii
import pathlib
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from protos.tensors import KNOWN_DATATYPES

#: Largest message of the embedded stream, in bytes; Kafka's is a setting.
EMBEDDED_MESSAGE_BYTES = 64 * 2**20


class Section(BaseModel):
    """One table of the file: unknown keys are errors, values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=True)


class TensorSpec(Section):
    """One input or output tensor of a model."""

    name: str = Field(description="Name of the tensor, as in the ONNX graph and in requests.", min_length=1)
    datatype: str = Field(description="Open Inference Protocol datatype, e.g. INT32, FP32 or BYTES (strings).")
    shape: tuple[int, ...] = Field(description="Dimensions; -1 is any size, and the first is the batch.", min_length=1)
    padding: float = Field(
        0.0, description="Value that fills a row up to the longest one of a training batch, where a dimension is -1."
    )

    @field_validator("shape")
    @classmethod
    def _batched(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value[0] != -1:
            raise ValueError("must begin with -1, the batch")
        if any(size == 0 or size < -1 for size in value):
            raise ValueError("has a size that is neither positive nor -1")
        return value

    @field_validator("datatype")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in KNOWN_DATATYPES:
            raise ValueError(f"is not one of {', '.join(KNOWN_DATATYPES)}")
        return value


class ModelSection(Section):
    """What is served: the name that callers use, and the tensors that student and teacher share."""

    name: str = Field(
        "filetypes",
        description="Name of the model in requests and in the registry.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
    )
    inputs: tuple[TensorSpec, ...] = Field(
        (TensorSpec(name="bytes", datatype="INT32", shape=(-1, 2048)),),
        description="Input tensors, the same for student and teacher.",
        min_length=1,
    )
    output: str = Field("logits", description="Name of the student's output tensor, FP32 [batch, classes], raw logits.")
    num_classes: int = Field(214, description="Number of classes, the size of the output's last dimension.", ge=2)
    labels: tuple[str, ...] = Field((), description="Names of the classes in their order, or none.")
    extra_outputs: tuple[TensorSpec, ...] = Field(
        (), description="Further outputs of the student's graph: served, never distilled. Each begins with the batch."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSection":
        if self.labels and len(self.labels) != self.num_classes:
            raise ValueError(f"has {len(self.labels)} labels for {self.num_classes} classes")
        inputs = [spec.name for spec in self.inputs]
        outputs = [self.output, *(spec.name for spec in self.extra_outputs)]
        for what, names in (("inputs", inputs), ("outputs", outputs)):
            if len(set(names)) != len(names):
                raise ValueError(f"two of its {what} have one name: {', '.join(sorted(names))}")
        return self


class RegistrySection(Section):
    """Where bundles, pointers, ledger, checkpoints and status objects live."""

    url: str = Field("everstill-data/registry", description="A folder, relative to this file.")
    cache: pathlib.Path = Field(
        pathlib.Path("everstill-data/cache"),
        description="Folder for verified copies of bundles, relative to this file.",
    )


class KafkaSection(Section):
    """Apache Kafka as the stream. `bootstrap` switches it on; without it the stream is the embedded file."""

    bootstrap: str = Field(
        "", description="Brokers to ask first, `host:port,host:port`; empty: the embedded stream is used."
    )
    topic_prefix: str = Field(
        "everstill",
        description="First part of every topic's name, `<prefix>.<model>.<kind>`.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
    )
    replication: int = Field(1, description="Replicas of a topic that `everstill stream topics --create` makes.", ge=1)
    min_insync: int = Field(
        1,
        description="Replicas that must have a message before it counts as accepted (`min.insync.replicas`), in topics made by us.",
        ge=1,
    )
    compression: Literal["none", "gzip", "lz4"] = Field("lz4", description="How batches are compressed.")
    max_message_bytes: int = Field(
        8 * 2**20,
        description="Largest message in bytes, before compression; a larger record is dropped and counted.",
        ge=2**16,
    )
    max_in_flight_bytes: int = Field(
        32 * 2**20, description="Bytes handed to the producer and not yet acknowledged, at most.", ge=2**16
    )
    acknowledge_timeout_s: float = Field(
        10.0,
        description="Time that the broker has to acknowledge a message; after it the mirror spools, in seconds. A moved leader takes about 11 s.",
        gt=0,
    )
    security: Literal["plaintext", "tls", "sasl_plaintext", "sasl_tls"] = Field(
        "plaintext", description="How brokers are spoken to."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How the name and password are proven, with `sasl_...`."
    )
    username: str = Field("", description="Name, with `sasl_...`.")
    password: SecretStr = Field(
        SecretStr(""), description="Password, with `sasl_...`; better set as EVERSTILL_STREAM__KAFKA__PASSWORD."
    )
    ca: pathlib.Path | None = Field(
        None, description="PEM file of the authorities that sign brokers' certificates; unset: the system's."
    )
    certificate: pathlib.Path | None = Field(
        None, description="PEM file of our certificate, where brokers ask for one."
    )
    certificate_key: pathlib.Path | None = Field(None, description="PEM file of its private key.")

    @field_validator("bootstrap")
    @classmethod
    def _addresses(cls, value: str) -> str:
        addresses = [one.strip() for one in value.split(",") if one.strip()]
        for one in addresses:
            host, _, port = one.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
                raise ValueError(f"holds {one!r}, which is not host:port")
        return ",".join(addresses)

    @model_validator(mode="after")
    def _consistent(self) -> "KafkaSection":
        if self.security.startswith("sasl_") and not (self.username and self.password.get_secret_value()):
            raise ValueError(f"security is {self.security}: username and password are needed")
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("certificate and certificate_key go together")
        if self.min_insync > self.replication:
            raise ValueError(f"min_insync is {self.min_insync}, more than replication, {self.replication}")
        return self


class StreamSection(Section):
    """The stream between mirror and loop: one SQLite file, or Apache Kafka."""

    path: pathlib.Path = Field(
        pathlib.Path("everstill-data/stream.sqlite"), description="File of the embedded stream, relative to this file."
    )
    partitions: int = Field(
        4,
        description="Number of partitions of the pairs and labels topics; fixed once the stream exists.",
        ge=1,
        le=1024,
    )
    retention_s: float = Field(7 * 86_400.0, description="Age after which messages are removed, in seconds.", gt=0)
    retention_bytes: int = Field(
        4 * 2**30,
        description="Bytes after which the oldest messages are removed: of the embedded file, or of each partition on Kafka.",
        ge=2**20,
    )
    kafka: KafkaSection = Field(KafkaSection(), description="Kafka's settings, a table.")

    @property
    def max_message_bytes(self) -> int:
        """Largest value of a message, for those who write and those who read."""
        return self.kafka.max_message_bytes if self.kafka.bootstrap else EMBEDDED_MESSAGE_BYTES

    @property
    def prefix(self) -> str:
        """First part of the topics' names."""
        return self.kafka.topic_prefix


class AtRestSection(Section):
    """Encryption of captured inputs on disk: spools, and the loop's memory in its checkpoints."""

    key: SecretStr = Field(
        SecretStr(""),
        description="32 bytes in base64 (`openssl rand -base64 32`), better set as EVERSTILL_AT_REST__KEY; empty: private files, not encrypted. To end encryption, empty it and name the old key in previous_keys.",
    )
    previous_keys: tuple[SecretStr, ...] = Field(
        (), description="Keys that older files are read with; nothing is written with them."
    )

    @field_validator("key", "previous_keys")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        for one in value if isinstance(value, tuple) else (value,):
            if not _key_bytes(one) and isinstance(value, tuple):
                raise ValueError("holds an empty key: leave it out")
        return value

    @property
    def sealing_key(self) -> bytes:
        """The key that is written with; empty where nothing is encrypted."""
        return _key_bytes(self.key)

    @property
    def older_keys(self) -> tuple[bytes, ...]:
        """The keys that older files are read with, whether there is a key to write with or not."""
        return tuple(map(_key_bytes, self.previous_keys))


def _key_bytes(secret: SecretStr) -> bytes:
    text = secret.get_secret_value()
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("is not base64") from None
    if text and len(key) != 32:
        raise ValueError(f"has {len(key)} bytes, not 32: make one with `openssl rand -base64 32`")
    return key


class SigningSection(Section):
    """Who may publish versions: the loop signs with a private key, whoever loads a version asks for a pinned public one. See docs/security.md."""

    key_file: pathlib.Path | None = Field(
        None,
        description="The loop's private key, a PEM file that others can't read, relative to this file; unset: nothing is signed. "
        "`everstill signing-keys create` makes one. Gateways need none.",
    )
    public_keys: tuple[str, ...] = Field(
        (),
        description="Keys whose versions are loaded, each `ed25519:` and 32 bytes in base64; several while a key is changed. With any, a signature "
        "that is there has to be one of theirs.",
    )
    revoked_keys: tuple[str, ...] = Field(
        (), description="Ids (16 hex digits) of keys that were lost: what is signed by nobody else is refused."
    )
    required: bool = Field(
        False,
        description="Whether a version without a signature is refused too; switch it on once every version is signed.",
    )

    @field_validator("public_keys")
    @classmethod
    def _public(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            public_key_bytes(one)
        return value

    @field_validator("revoked_keys")
    @classmethod
    def _ids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            if not re.fullmatch(r"[0-9a-f]{16}", one):
                raise ValueError(
                    f"holds {one!r}, which is not a key's id: 16 hex digits, see `everstill signing-keys show`"
                )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "SigningSection":
        if self.required and not self.public_keys:
            raise ValueError("required is on and public_keys is empty: no version could be loaded")
        return self


def public_key_bytes(text: str) -> bytes:
    """Return the 32 bytes of a public key as it is written in the configuration; raises ValueError with a sentence."""
    kind, _, encoded = text.partition(":")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if kind != "ed25519" or len(key) != 32:
        raise ValueError(
            f"holds {text!r}, which is not `ed25519:` and 32 bytes in base64: see `everstill signing-keys show`"
        )
    return key


class BundlesSection(Section):
    """What a version's files may be; whatever is beyond is refused before ONNX Runtime sees a byte."""

    max_bytes: int = Field(8 * 2**30, description="Bytes of all of a version's files together.", ge=2**16)
    max_tensor_bytes: int = Field(
        4 * 2**30, description="Bytes of one tensor that a graph declares with a fixed size.", ge=2**10
    )
    max_nodes: int = Field(
        100_000, description="Nodes of a graph, those of inner graphs and of called functions counted each time.", ge=1
    )
    allowed_domains: tuple[str, ...] = Field(
        ("ai.onnx", "ai.onnx.ml", "com.microsoft"), description="Domains whose operators a graph may use.", min_length=1
    )


class LogSection(Section):
    """How processes write their logs, always to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is written."
    )
    format: Literal["json", "console"] = Field(
        "json", description="One JSON object a line, or coloured text for people."
    )
