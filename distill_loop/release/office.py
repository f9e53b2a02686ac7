"""The release office: candidates into bundles, trials into the registry, decisions into ledger and pointers - in crash order.

Decides the order of writes, so that a loop killed between any two of them finds its way on the next start:
a trial is opened by (1) its bundle, (2) the checkpoint that holds it, (3) the trial pointer; a decision is (1) the trial's rows,
(2) the ledger line, which IS the decision, (3) the live pointer, (4) the closed trial pointer, (5) the next checkpoint. Every
write can be repeated. Knows no statistics: the verdict is its caller's. One thread.
"""

import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import structlog
from torch import nn

from distill_loop.config import ReleaseSection
from distill_loop.release.candidate import Origin, build_files, logits_of
from distill_loop.release.export import Exporter
from distill_loop.release.first_version import FirstVersion, examine
from distill_loop.release.precheck import Artifact, Precheck, precheck
from distill_loop.release.sources import gap_id, sources
from protos.tensors import Array
from registry.bundle import MODEL, read_manifest, write_bundle
from registry.fetching import Policy, fetch_bundle
from registry.graph_check.model import check_graph
from registry.graph_check.wire import GraphError
from registry.ledger import Facts, Kind, Ledger, LedgerMoved, Line, Range
from registry.pointers import Pointers, Trial
from registry.sections import ModelSection
from registry.signing import Signer
from registry.standing import Standing, apply_ledger, sentence_of
from registry.store import ObjectStore

BOOTSTRAP = "bootstrap"
NO_FACTS = Facts()


class ReleaseOffice:
    """Releases versions of one model.

    Args:
        policy: what a version that is fetched has to be.
        signer: signs what is published; None where nothing is signed.
        epoch: of the loop's lease; pointers refuse an older one.
        text_bytes: width of the window that a BYTES input is read through.
        facts: what this process writes into each ledger line.
    """

    def __init__(
        self,
        store: ObjectStore,
        model: ModelSection,
        settings: ReleaseSection,
        *,
        cache: pathlib.Path,
        policy: Policy,
        signer: Signer | None = None,
        epoch: int,
        actor: str,
        text_bytes: int,
        facts: Facts = NO_FACTS,
    ) -> None:
        self._store = store
        self._model = model
        self._settings = settings
        self._cache = cache
        self._policy = policy
        self._signer = signer
        self._epoch = epoch
        self._actor = actor
        self.pointers = Pointers(store, model.name)
        self.ledger = Ledger(store, model.name, facts)
        self.tip: Line | None = None
        self._exporter = Exporter(model, text_bytes=text_bytes)
        self._artifacts: dict[str, Artifact] = {}
        self._newest_pair = ("", 0.0)
        self._log = structlog.get_logger()

    def export(
        self, net: nn.Module, rows: Mapping[str, Array], answers: Mapping[str, Array]
    ) -> tuple[bytes, Artifact, Precheck]:
        """Return the net as a graph, on the runtime, and what the pre-check says of it; nothing is written.

        The first call traces the graph (seconds), the next ones write new weights into it; a graph whose parity is lost that way
        (it has folded a weight into something else) is traced anew.
        """
        for last in (False, True):
            onnx_bytes = self._exporter.export(net)
            artifact = Artifact(onnx_bytes, self._model.output, threads=1)
            check = precheck(artifact, len(onnx_bytes), rows, answers, self._settings)
            if not check.wrong or last:
                break
            self._exporter.forget()
        try:
            check_graph(onnx_bytes, self._model.inputs, logits_of(self._model), self._policy.limits)
        except GraphError as error:  # nobody who fetches it would load it
            check = dataclasses.replace(check, reasons=(*check.reasons, error.message))
        return onnx_bytes, artifact, check

    def cut(
        self, net: nn.Module, rows: Mapping[str, Array], answers: Mapping[str, Array], origin: Origin
    ) -> tuple[str | None, Precheck]:
        """Export the student, check it, and write its bundle; returns the digest, or None where the pre-check rejects it.

        Args:
            rows: inputs for parity and golden answers, at least one row, held out where there are such.
            answers: the torch student's outputs for them.
        """
        onnx_bytes, artifact, check = self.export(net, rows, answers)
        if check.reasons:
            self._log.warning("candidate rejected by the pre-check", reasons=list(check.reasons))
            return None, check
        golden = {name: array[-self._settings.golden_rows :] for name, array in rows.items()}
        files = build_files(self._model, onnx_bytes, golden, artifact.logits(golden), check.parity_max_abs, origin)
        digest = write_bundle(self._store, files, self._signer)
        self._artifacts[digest] = artifact
        return digest, check

    def release_file(self) -> Line | None:
        """Release the file that `release.first_version` names, where the model has no version yet; None where it has one.

        Raises:
            ConfigurationError: the file is not what [model] declares.
        """
        path = self._settings.first_version
        if path is None or Standing.of(self.ledger.lines()).moving is not None:
            return None
        first = examine(path, self._model, self._settings, self._policy.limits)
        if first.note:
            self._log.warning("the first version's file", note=first.note)
        return self.bootstrap(self._publish(first), _evidence_of(first))

    def release_floor(self) -> Line | None:
        """Write down the file that `release.floor` names as the last resort; None where none is named, or it is the one already.

        Raises:
            ConfigurationError: the file is not what [model] declares.
        """
        path = self._settings.floor
        if path is None:
            return None
        lines = self.ledger.lines()
        known, sha256 = (
            Standing.of(lines).floor,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        if known is not None and known.evidence.get("sha256") == sha256:
            return None
        file = examine(path, self._model, self._settings, self._policy.limits, "release.floor")
        return self.ledger.append(
            kind="floor",
            trial_id=f"floor-{len(lines) + 1}",
            digest=self._publish(file),
            previous_digest=known.digest if known else None,
            evidence=_evidence_of(file),
            actor=self._actor,
        )

    def _publish(self, file: FirstVersion) -> str:
        """Write a file's bundle and return its digest."""
        student = {"student": "file", "file": file.name, "sha256": file.sha256}
        origin = Origin("bootstrap", None, "", 0, 0, student, time.time())
        files = build_files(self._model, file.onnx_bytes, file.golden, file.golden_logits_BC, 0.0, origin)
        return write_bundle(self._store, files, self._signer)

    def artifact(self, digest: str) -> Artifact:
        """Return a version as the serving runtime runs it."""
        if digest not in self._artifacts:
            bundle = fetch_bundle(self._store, digest, self._cache, self._policy)
            self._artifacts[digest] = Artifact(bundle.folder / MODEL, self._model.output, threads=1)
        return self._artifacts[digest]

    def bootstrap(
        self,
        digest: str,
        evidence: dict[str, Any],
        learned_from: tuple[Range, ...] | None = None,
        teacher_version: str | None = None,
    ) -> Line:
        """Release the first version, ungated; a model that has one keeps it, and that one's line is returned."""
        return self.ledger.append(
            kind="bootstrap",
            trial_id=BOOTSTRAP,
            digest=digest,
            previous_digest=None,
            evidence=evidence,
            actor=self._actor,
            learned_from=learned_from,
            teacher_version=teacher_version,
        )

    def decide(
        self,
        kind: Kind,
        trial: Trial,
        evidence: dict[str, Any],
        rows: bytes,
        learned_from: tuple[Range, ...] | None = None,
        teacher_version: str | None = None,
    ) -> Line:
        """Keep a trial's rows and write its decision; a trial that has one keeps it and its rows, and that line is returned.

        A promotion is written only on a ledger in which the incumbent is live and nothing holds it; else the line says the verdict, and why nothing moves.
        """
        if decided := self.ledger.find(trial.trial_id):
            return decided
        self._store.put(self.ledger.rows_path(trial.trial_id), rows)
        while True:
            lines = self.ledger.uncut()
            allowed, why = _as_it_stands(kind, trial, Standing.of(lines))
            try:
                return self.ledger.append(
                    kind=allowed,
                    trial_id=trial.trial_id,
                    digest=trial.candidate,
                    previous_digest=trial.incumbent,
                    evidence={**evidence, **why},
                    rows_digest=hashlib.sha256(rows).hexdigest(),
                    actor=self._actor,
                    learned_from=learned_from,
                    teacher_version=teacher_version,
                    expected=len(lines),
                )
            except LedgerMoved:
                continue

    def open_trial(self, trial: Trial | None) -> None:
        """Point to the open trial, or to none; raises StaleEpoch where a newer loop has."""
        self.pointers.set_trial(trial, epoch=self._epoch)

    def close_trial(self, trial_id: str) -> None:
        """Point to no trial where this is the open one; raises as `open_trial`."""
        self.pointers.close_trial(trial_id, epoch=self._epoch)

    def learned_from(self, topic: str, ends: Mapping[int, int], stream: str = "") -> tuple[Range, ...]:
        """Return which messages of a topic were read up to these ends, by partition: see `release.sources`."""
        return sources(self.ledger.lines(), topic, ends, stream)

    def report_gap(self, kind: str, partition: int, first: int, end: int, live: str | None, stream: str = "") -> None:
        """Write down that offsets `first` up to `end` of a topic's partition were removed unread; may be repeated.

        A loop that was killed finds the same gap again, and then perhaps a longer one: what is in the ledger already stays as it is, and a further line
        says the rest. Offsets of another `stream` are others.
        """
        while first < end:
            line = self.ledger.append(
                kind="gap",
                trial_id=gap_id(kind, partition, first, stream),
                digest=live or "",
                previous_digest=None,
                evidence={"topic": kind, "partition": partition, "first": first, "end": end, "messages": end - first},
                actor=self._actor,
            )
            first = int(line.evidence["end"])

    def report_replaced(
        self,
        kind: str,
        partition: int,
        offset: int,
        stream: str,
        successor: str,
        live: str | None,
        end: int | None = None,
        read_from: int = 0,
    ) -> None:
        """Write down that a partition, read up to `offset`, is another stream now, or the same one, cut off at `end`; may be repeated. What is gone unread nobody can count."""
        evidence = {"topic": kind, "partition": partition, "first": offset, "end": None, "messages": None}
        cut_off = {} if end is None else {"cut_off_at": end, "read_from": read_from}
        end_key = "" if end is None else f"-{end}"
        self.ledger.append(
            kind="gap",
            trial_id=f"replaced-{kind}-{partition}-{offset}-{stream[:16]}-{successor[:16]}{end_key}",
            digest=live or "",
            previous_digest=None,
            evidence={**evidence, "stream": stream, "replaced_by": successor, **cut_off},
            actor=self._actor,
        )

    def newest_pair_unix_s(self, digest: str) -> float:
        """Return the time of the newest pair that a version knows, 0 where its manifest doesn't say."""
        if digest != self._newest_pair[0]:
            self._newest_pair = digest, read_manifest(self._store, digest).newest_pair_unix_s
        return self._newest_pair[1]

    def apply_ledger(self) -> Standing:
        """Make the live pointer say what the newest deciding line says, and return where the ledger stands; may be repeated at any time."""
        before = self.pointers.live()
        standing = apply_ledger(self.ledger, self.pointers, self._epoch)
        self.tip = standing.newest
        if (line := standing.moving) and (before is None or before.ledger_line < line.number):
            self._log.info("live pointer moved", digest=line.digest, ledger_line=line.number, kind=line.kind)
        self._artifacts = {digest: one for digest, one in self._artifacts.items() if digest == standing.live}
        return standing

    def grew(self) -> bool:
        """Whether the ledger has a line that came after the last `apply_ledger`."""
        return next(self.ledger.newer(self.tip.number if self.tip else 0), None) is not None


def _as_it_stands(kind: Kind, trial: Trial, standing: Standing) -> tuple[Kind, dict[str, Any]]:
    """Return the kind that a line may have now, and what its evidence says beside the verdict where that is another."""
    if kind != "promote":
        return kind, {}
    if standing.live != trial.incumbent:
        return "inconclusive", {"reason": "the incumbent changed", "closed": "incumbent"}
    if standing.hold is not None:
        return "observe", {"held": sentence_of(standing.hold)}
    return kind, {}


def _evidence_of(file: FirstVersion) -> dict[str, Any]:
    return {"source": "file", "file": file.name, "sha256": file.sha256, "latency_ms": file.latency_ms}
