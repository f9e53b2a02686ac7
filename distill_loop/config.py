"""Settings of the loop. Read by `registry.config.load`; knows no logic."""

import hashlib
import json
import pathlib
from typing import Any, Literal

from pydantic import Field, model_validator

from registry.config import SharedSettings
from registry.sections import Section


class NgramsSection(Section):
    """The student `ngrams`: bags of hashed n-grams of text or of token ids."""

    orders: tuple[int, ...] = Field(
        (),
        description="Lengths of the n-grams; empty: 1 to 4 bytes of text, 1 and 2 token ids.",
        max_length=8,
    )


class TabularSection(Section):
    """The student `tabular`: numeric columns, scaled as the stream shows them, and categories."""

    categories: dict[str, tuple[int, ...]] = Field(
        {},
        description="Columns, from 0, that hold categories, by input: `{ features = [1, 2] }`. Any value will do, it is hashed. "
        "An integer input that is not named here is all categories.",
    )
    category_buckets: int = Field(128, description="Hash buckets of each column of categories.", ge=2)
    category_embedding: int = Field(8, description="Size of a category's embedding.", ge=1)
    layers: int = Field(2, description="Hidden layers, of learner.hidden units each.", ge=1, le=8)


class ImageSection(Section):
    """The student `image`: a small convolutional net."""

    channels: int = Field(
        16, description="Channels of the first of three convolutions; the others have twice as many.", ge=1
    )


class LearnerSection(Section):
    """How the student learns."""

    student: str = Field(
        "auto",
        description="Architecture: `byte_window`, `ngrams`, `tabular`, `image`, a torch module of yours as `module:function`, or "
        "`auto`, which chooses a built-in one by the model's inputs.",
        min_length=1,
    )
    arguments: dict[str, Any] = Field({}, description="Keyword arguments of your `module:function`, a table.")
    hidden: int = Field(256, description="Units of a built-in student's hidden layer.", ge=1)
    embedding: int = Field(64, description="Size of a hashed n-gram's embedding (byte_window, ngrams).", ge=1)
    buckets: int = Field(
        4096,
        description="Hash buckets: of byte pairs for each end (byte_window), of n-grams of each length (ngrams).",
        ge=1,
    )
    text_bytes: int = Field(256, description="Bytes of a BYTES input that are read.", ge=8, le=65_536)
    ngrams: NgramsSection = Field(NgramsSection(), description="Settings of the student `ngrams`, a table.")
    tabular: TabularSection = Field(TabularSection(), description="Settings of the student `tabular`, a table.")
    image: ImageSection = Field(ImageSection(), description="Settings of the student `image`, a table.")
    learning_rate: float = Field(3e-3, description="AdamW's constant rate.", gt=0)
    weight_decay: float = Field(1e-4, description="AdamW's decoupled weight decay.", ge=0)
    batch_size: int = Field(64, description="Pairs in one step, half of them the newest.", ge=2)
    steps_per_pair: float = Field(1.0, description="Steps taken for each new pair.", gt=0)
    max_grad_norm: float = Field(1.0, description="Largest gradient norm; more is scaled down.", gt=0)
    ring_pairs: int = Field(128, description="Newest pairs kept for the recency half of a batch.", ge=1)
    memory_bytes: int = Field(256 * 2**20, description="Bound of the class-balanced memory, in bytes.", ge=2**16)
    memory_s: float = Field(
        30 * 86_400.0,
        description="Age after which the memory and the held-out slice forget a pair, in seconds: of its record, by the stream's newest time.",
        gt=0,
    )
    holdout_ratio: float = Field(
        0.1, description="Share of inputs, by their key, held out and never trained on.", ge=0, le=0.5
    )
    loss_kl_weight: float = Field(0.5, description="Weight k of the KL term beside the DIST terms.", ge=0)
    loss_relation_weight: float = Field(2.0, description="Weights b and g of DIST's row and column terms.", ge=0)
    seed: int = Field(0, description="Seed of initial weights and of replay's choices.", ge=0)
    threads: int = Field(1, description="Torch threads.", ge=1)


class GateSection(Section):
    """The anytime-valid gate. See docs/gate.md for what it guarantees, and on what traffic."""

    alpha: float = Field(
        0.01,
        description="Error rate per trial opened: probability of ever promoting a student that is no better.",
        gt=0,
        lt=1,
    )
    error_rate: Literal["constant", "regulated"] = Field(
        "constant",
        description="`constant`: each trial has `alpha`. `regulated`: trials share an error rate (e-LOND), so that at most `fdr` of all promotions are false, "
        "however many trials there are; each that promotes nothing makes the next stricter.",
    )
    fdr: float = Field(
        0.1, description="Share of promotions that may be false, on average, where regulated.", gt=0, lt=1
    )
    margin: float = Field(0.0, description="Non-inferiority margin; 0 asks for superiority.", ge=0, lt=1)
    smaller_ratio: float = Field(
        0.8,
        description="A candidate of at most this share of the incumbent's bytes is a smaller one; 0: none is.",
        ge=0,
        le=1,
    )
    smaller_margin: float = Field(
        0.005, description="Non-inferiority margin of a smaller candidate, where `margin` isn't more.", ge=0, lt=1
    )
    min_gain: float = Field(0.005, description="Futility: a candidate better by less than this is dropped.", gt=0, lt=1)
    slice_rows: int = Field(
        5_000,
        description="Expected requests in the trial from which a slice is large: it must be certified not worse by `slice_margin` then. Others are "
        "only watched for harm.",
        ge=1,
    )
    slice_margin: float = Field(
        0.01, description="How much worse a candidate may be on a slice, and by true labels.", gt=0, lt=1
    )
    brier_tolerance: float = Field(
        0.005, description="How much worse a candidate's Brier score to the teacher may be.", ge=0, lt=1
    )
    veto_evidence: float = Field(
        20.0, description="Evidence of harm at which a veto stands; for slices times their number.", gt=1
    )
    futility_evidence: float = Field(10.0, description="Evidence at which futility or harm ends a trial.", gt=1)
    max_rows: int | None = Field(
        None,
        description="Requests after which a trial ends as inconclusive; unset, 20,000, or 60,000 with a margin.",
        ge=1,
    )
    stalled_pairs: int = Field(
        512,
        description="Pairs without a new input in the trial after which it ends as inconclusive; those of its first 30 s don't count.",
        ge=1,
    )
    max_pairs: int = Field(
        20_000,
        description="Pairs after which a trial ends as inconclusive, however few its rows; those of its first 30 s don't count.",
        ge=1,
    )
    max_share: float = Field(
        1.0, description="Largest share of requests handed over for a trial, beside the uniform arm's.", gt=0, le=1
    )
    teacher_share: float = Field(
        0.05,
        description="Share of requests whose disagreement the trial may ask the teacher about, beside the uniform arm's.",
        gt=0,
        le=1,
    )

    def cap_of(self, margin: float) -> int:
        """Return the requests after which a trial with this margin ends; non-inferiority needs more of them than superiority."""
        return self.max_rows or (60_000 if margin else 20_000)


class ReleaseSection(Section):
    """When a candidate is cut and what it must not exceed before its trial."""

    first_version: pathlib.Path | None = Field(
        None,
        description="ONNX file that is released as the first version at start, ungated, relative to this file; unset: the "
        "student's own first version.",
    )
    floor: pathlib.Path | None = Field(
        None,
        description="ONNX file of a student that is never updated, the last resort of `everstill rollback --floor`, relative to this file; "
        "unset: the one named last, or else the first version.",
    )
    bootstrap_pairs: int = Field(
        256, description="Teacher answers after which the first version is released, ungated.", ge=1
    )
    bootstrap_steps: int = Field(300, description="Steps taken on them before that.", ge=1)
    observe_only: bool = Field(
        False,
        description="Whether trials are run and their verdicts written, and nothing is promoted: to look on before the gate is trusted.",
    )
    cut_every_pairs: int = Field(64, description="New pairs learned between two candidates.", ge=1)
    max_bytes: int = Field(64 * 2**20, description="Largest candidate, in bytes.", ge=1)
    max_latency_ms: float = Field(
        50.0, description="Largest median time of one row on the serving runtime, in milliseconds.", gt=0
    )
    parity_tolerance: float = Field(
        1e-3, description="Largest difference of a logit between torch and ONNX Runtime.", gt=0
    )
    golden_rows: int = Field(8, description="Held-out rows stored in a bundle with their expected logits.", ge=1)


class LoopSection(Section):
    """The loop's process."""

    metrics_port: int = Field(8003, description="HTTP port of /metrics (Prometheus).", ge=0, le=65_535)
    poll_interval_s: float = Field(0.2, description="Wait between two looks at an idle stream, in seconds.", gt=0)
    max_messages: int = Field(
        512,
        description="Messages of a partition taken from the stream at once, at most; fewer where they hold many records, 64 where `deterministic` is on.",
        ge=1,
    )
    checkpoint_every_s: float = Field(
        5.0, description="Longest time between two checkpoints while pairs arrive, in seconds.", gt=0
    )
    deterministic: bool = Field(
        False,
        description="Whether the same messages always make the same weights, bit for bit, whatever killed the loop in between: after each "
        "message all steps that it earned are taken, and cuts and checkpoints follow the stream's offsets, never time. Where the machine "
        "can't keep up it falls behind instead of skipping steps. Bit for bit with one partition of pairs.",
    )
    checkpoint_every_messages: int = Field(
        64, description="Messages of pairs between two checkpoints where `deterministic` is on.", ge=1
    )
    lease_s: float = Field(
        15.0, description="Time after which another loop may take over a silent one, in seconds.", gt=0
    )
    agreement_window: int = Field(
        500, description="Newest uniform-arm pairs that progressive agreement rests on.", ge=10
    )
    label_window_s: float = Field(
        7 * 86_400.0,
        description="Time after a row was answered in which feedback on it counts, in seconds, by the gateways' clocks; later feedback "
        "is counted as late.",
        gt=0,
    )
    label_records: int = Field(
        200_000,
        description="Newest sampled rows that are remembered for a label to come, and newest labels that wait for their row; "
        "about 0.2 KB of memory each. At 200 sampled rows a second the default covers about 17 minutes: where labels come later, raise it.",
        ge=1,
    )
    status_interval_s: float = Field(1.0, description="Time between two status objects, in seconds.", gt=0)
    dedupe_records: int = Field(1_000_000, description="Newest record ids remembered, to count each once.", ge=1)
    nice: int = Field(10, description="Niceness of the loop: it gives way to serving.", ge=0, le=19)


class LoopSettings(SharedSettings):
    """What a loop reads of the file."""

    learner: LearnerSection = Field(LearnerSection(), description="How the student learns.")
    gate: GateSection = Field(GateSection(), description="When a candidate is promoted.")
    release: ReleaseSection = Field(ReleaseSection(), description="When a candidate is cut.")
    loop: LoopSection = Field(LoopSection(), description="The loop's process.")

    @model_validator(mode="after")
    def _consistent(self) -> "LoopSettings":
        if self.loop.deterministic and self.learner.threads != 1:
            raise ValueError(
                "loop.deterministic is on: learner.threads must be 1, sums of several threads differ in their last bits"
            )
        return self


def digest_of(settings: LoopSettings) -> str:
    """Return the SHA-256 of the loop's settings in force, folders included and secrets masked: what a ledger line names as its configuration."""
    body = {
        name: value for name, value in settings.model_dump(mode="json").items() if name in LoopSettings.model_fields
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
