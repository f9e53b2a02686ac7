"""Settings of the gateway, its mirror and the teacher server. Read by `registry.config.load`; knows no logic."""

import pathlib
from typing import Literal

from pydantic import Field, SecretStr

from registry.config import SharedSettings
from registry.sections import Section


class GatewaySection(Section):
    """The callers' side of the gateway."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8001, description="gRPC port of the callers.", ge=0, le=65_535)
    metrics_port: int = Field(8002, description="HTTP port of /metrics (Prometheus).", ge=0, le=65_535)
    id: str = Field(
        "gateway-1",
        description="Name of this gateway in status objects and reports.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
    )
    workers: int = Field(1, description="Processes that answer callers behind the one port.", ge=1, le=256)
    pin_workers: bool = Field(
        False, description="Whether each worker stays on one of the cores that the gateway may use, in turn (Linux)."
    )
    max_connection_age_s: float = Field(
        0.0,
        description=(
            "Age at which a caller's connection is closed gracefully, in seconds, so that connections even out over workers; "
            "0 is never."
        ),
        ge=0,
    )
    threads: int = Field(
        32, description="Requests that a worker answers at once; more wait, up to max_in_flight.", ge=1, le=1024
    )
    max_in_flight: int = Field(
        256,
        description="Requests of one worker being answered or waiting; one more is refused with RESOURCE_EXHAUSTED.",
        ge=1,
    )
    max_streams: int = Field(
        64, description="ModelStreamInfer calls that may be open at once; each has a thread of its own.", ge=1, le=4096
    )
    max_message_bytes: int = Field(16 * 2**20, description="Largest request or answer, in bytes.", ge=1024)
    max_rows: int = Field(
        4096,
        description="Rows that one request may have: all of them are answered in one run, and others wait meanwhile.",
        ge=1,
    )
    max_batch: int = Field(16, description="Rows that the batcher joins into one run of the student.", ge=1)
    refuse_nan: bool = Field(True, description="Whether a floating-point input with NaN or infinity is refused.")
    pass_through: bool = Field(
        False, description="Whether requests are answered by the teacher while there is no student version."
    )
    follow_interval_s: float = Field(0.5, description="How often the registry's pointers are read, in seconds.", gt=0)
    load_deadline_s: float = Field(
        120.0,
        description=(
            "Time that a worker may take to load a version, in seconds: one that says nothing for longer hangs, and is killed "
            "and started again, so that roll-outs go on."
        ),
        gt=0,
    )
    drain_deadline_s: float = Field(
        10.0,
        description="Time that a graceful stop gives to requests in flight, and again to the mirror, in seconds.",
        gt=0,
    )
    intra_op_threads: int = Field(1, description="ONNX Runtime threads of one run of the student.", ge=1)

    @property
    def address(self) -> str:
        """host:port of the callers, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RedactionRule(Section):
    """What must not leave the worker: applied to captured inputs before the hand-over."""

    tensor: str = Field(description="Name of the input tensor.")
    action: Literal["drop", "zero", "hash"] = Field(
        description="Drop the tensor, set to zero, or replace by a keyed hash."
    )
    columns: tuple[int, ...] = Field(
        (), description="Indices in the last dimension to zero or hash; empty is the whole tensor."
    )


#: Room that the mirror takes for each of a journal's two files: what 2 MiB of frames become. A file grows where a step leaves more in flight.
JOURNAL_FILE_BYTES = 8 * 2**20


class CaptureSection(Section):
    """Which requests are shown to the teacher, and how they get there without a caller noticing."""

    rate: float = Field(0.2, description="Probability with which the uniform arm takes a request.", ge=0, le=1)
    seed: SecretStr = Field(
        SecretStr("everstill"), description="Key of the sampling coins and of the hashes in records; at most 64 bytes."
    )
    dir: pathlib.Path = Field(
        pathlib.Path("everstill-data/capture"),
        description="Folder of rings and spools, one folder in it for each model, relative to this file; private files.",
    )
    ring_bytes: int = Field(
        64 * 2**20, description="Capacity of each ring between a worker and the mirror, in bytes.", ge=2**16
    )
    spool_bytes: int = Field(
        2**30, description="Bound of the spool on disk, in bytes; the oldest goes first and is counted.", ge=2**16
    )
    spool_retention_s: float = Field(
        86_400.0, description="Age after which a spooled sample is dropped and counted, in seconds.", gt=0
    )
    redact: tuple[RedactionRule, ...] = Field(
        (), description="Inputs that are dropped, zeroed or hashed before the hand-over."
    )
    report_interval_s: float = Field(
        5.0, description="Time between two capture reports on the stream, in seconds.", gt=0
    )
    mirror_nice: int = Field(10, description="Niceness of the mirror: it gives way to the workers.", ge=0, le=19)

    @property
    def key(self) -> bytes:
        """The key of coins and hashes."""
        return self.seed.get_secret_value().encode()[:64]


class TeacherSection(Section):
    """The teacher that the mirror asks: any Open Inference Protocol server over gRPC."""

    address: str = Field("127.0.0.1:8101", description="host:port of the teacher.")
    model: str = Field("teacher", description="Model name in calls to the teacher.")
    inputs: dict[str, str] = Field(
        {},
        description="The teacher's names of inputs that it calls otherwise than [model] does, by the model's name of "
        "them; an empty name leaves an input out.",
    )
    output: str = Field("target_label", description="Name of the teacher's output tensor, [batch, classes].")
    kind: Literal["logits", "probabilities"] = Field("probabilities", description="What the teacher's output is.")
    timeout_s: float = Field(2.0, description="Deadline of one call, in seconds.", gt=0)
    attempts: int = Field(
        2, description="Calls made for one sample before it is spooled, each counted as a call.", ge=1, le=10
    )
    max_batch: int = Field(8, description="Rows in one call.", ge=1)
    budget_ratio: float = Field(
        0.25, description="Hard cap on rows asked of the teacher, as a share of requests seen.", ge=0
    )
    budget_burst: int = Field(200, description="Rows that may be asked ahead of that share.", ge=1)
    budget_reserve: int = Field(
        100,
        description="Unspent rows of that cap from which on a trial evaluates every row of its arm; below, the share unspent rows / "
        "budget_reserve.",
        ge=1,
    )
    max_calls_per_s: float = Field(100.0, description="Hard cap on rows asked of the teacher a second.", gt=0)
    breaker_failures: int = Field(5, description="Failed calls in a row that open the circuit breaker.", ge=1)
    breaker_open_s: float = Field(
        5.0, description="Time that the open breaker waits before it tries one call, in seconds.", gt=0
    )


class TeacherServerSection(Section):
    """`everstill teacher`: serves one ONNX file over the Open Inference Protocol."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8101, description="gRPC port.", ge=0, le=65_535)
    onnx: Literal["magika"] | pathlib.Path = Field(
        "magika",
        description="The ONNX file, relative to this file, or `magika` for the one inside the magika wheel.",
    )
    name: str = Field("teacher", description="Model name that it answers to.")
    version: str = Field(
        "", description="Version that it reports; empty is the first 12 hex digits of the file's SHA-256."
    )
    threads: int = Field(1, description="ONNX Runtime threads of one run.", ge=1)
    nice: int = Field(0, description="Niceness of the process.", ge=0, le=19)


class ServingSettings(SharedSettings):
    """What a gateway, a mirror or a teacher server reads of the file."""

    gateway: GatewaySection = Field(GatewaySection(), description="The gateway.")
    capture: CaptureSection = Field(CaptureSection(), description="Shadow sampling and hand-over.")
    teacher: TeacherSection = Field(TeacherSection(), description="The teacher as its client sees it.")
    teacher_server: TeacherServerSection = Field(TeacherServerSection(), description="The built-in teacher server.")
