"""`python -m distill_loop.app --check`: whether the student of a configuration can be made, exported and released - before anything starts.

Touches no registry and no stream. Says one JSON object on standard output: what the student is and costs, or what is wrong. Called by
`everstill doctor`, `init` and `up`. Connects the rooms learner and release. One thread.
"""

import contextlib
import json
import sys
import time
from typing import Any

from distill_loop.config import LoopSettings
from distill_loop.learner.step import Learner
from distill_loop.release.export import Exporter
from distill_loop.release.first_version import examine
from distill_loop.release.precheck import Artifact, precheck
from protos.errors import ConfigurationError, EverstillError
from registry.plausible import plausible_rows

ROWS, FREE_SIZE = 3, 24


def check(settings: LoopSettings) -> dict[str, Any]:
    """Make the student, export it, compare the graph with it, and look at the first version's file where there is one.

    Raises:
        ConfigurationError, FormatError: what is wrong, in one sentence.
    """
    model = settings.model
    learner = Learner(settings.learner, model)
    student = learner.student
    start = time.perf_counter()
    onnx_bytes = Exporter(model, text_bytes=settings.learner.text_bytes).export(learner.net)
    export_s = time.perf_counter() - start
    rows = plausible_rows(model.inputs, ROWS, FREE_SIZE)
    artifact = Artifact(onnx_bytes, model.output, threads=1)
    found = precheck(artifact, len(onnx_bytes), rows, learner.answers(rows), settings.release)
    if found.reasons:
        raise ConfigurationError(
            f"learner.student {student.name}: its ONNX graph {found.reasons[0]}",
            fix="Mend the student, or raise the limit in [release]",
        )
    first = None
    if settings.release.first_version is not None:
        file = examine(settings.release.first_version, model, settings.release, settings.bundles)
        first = {"file": file.name, "sha256": file.sha256, "bytes": len(file.onnx_bytes), "note": file.note}
        first["latency_ms"] = round(file.latency_ms, 3)
    return {
        "ok": True,
        "model": model.name,
        "student": student.name,
        "chosen": settings.learner.student,
        "facts": dict(student.facts),
        "parameters": student.num_parameters,
        "bytes": len(onnx_bytes),
        "export_s": round(export_s, 3),
        "latency_ms": round(found.latency_ms, 3),
        "parity_max_abs": found.parity_max_abs,
        "first_version": first,
    }


def tell(settings: LoopSettings) -> None:
    """Print what `check` finds; raises as it does, after printing that."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a module of the user's prints is not our answer
            found = check(settings)
        print(json.dumps(found))
    except EverstillError as error:
        print(json.dumps({"ok": False, "model": settings.model.name, "error": error.message, "fix": error.fix}))
        raise
