"""The demo's audit, after the service has stopped: the teacher is asked about every request, the frozen student about those after the drift.

Decides nothing about the service: these calls are the client's, and are counted nowhere. Called by the story; one thread.
"""

from collections.abc import Sequence

from everstill.config import EverstillSettings
from everstill.demo.client import ask_all
from everstill.demo.display import Display
from everstill.demo.score import Scores
from everstill.recipes.recipe import Row
from everstill.stack import Stack
from registry.bundle import MODEL
from registry.fetching import Policy, fetch_bundle
from registry.ledger import Line
from registry.store import ObjectStore

#: Answers between two words about how far it is.
SAID_EVERY = 100


def audit(
    stack: Stack,
    store: ObjectStore,
    settings: EverstillSettings,
    rows: Sequence[Row],
    drift: int,
    frozen_version: str,
    lines: Sequence[Line],
    display: Display,
    *,
    batch: int,
) -> Scores:
    """Return what the teacher and the student that served at the drift say.

    Args:
        frozen_version: the version that is left as it was, or "" where no student served.
        lines: the ledger, which knows its digest.
        batch: rows in one call.
    """
    display.say("scoring: asking the teacher about every request (not counted as calls of the service)")
    progress = display.progress()

    def count(num: int, of: int, who: str) -> None:
        if num % SAID_EVERY < batch or num == of:
            progress(f"{num:,} of {of:,} answered by {who}")

    teacher, latencies = ask_all(
        settings.teacher.address,
        settings.teacher.model,
        settings.teacher.output,
        rows,
        lambda num: count(num, len(rows), "the teacher"),
        batch=batch,
    )
    frozen = [-1] * len(rows)
    matching = [line.digest for line in lines if line.digest.startswith(frozen_version)] if frozen_version else []
    if matching:
        bundle = fetch_bundle(
            store, matching[0], settings.registry.cache, Policy.of(settings.signing, settings.bundles)
        )
        environment = {
            "EVERSTILL_TEACHER_SERVER__ONNX": str(bundle.folder / MODEL),
            "EVERSTILL_TEACHER_SERVER__NAME": "frozen",
            "EVERSTILL_TEACHER_SERVER__PORT": "0",
        }
        server = stack.start("frozen-student", ["serving.app", "teacher"], environment)
        address = stack.started_event(server)["address"]
        after = rows[drift:]
        frozen[drift:], _ = ask_all(
            address,
            "frozen",
            settings.model.output,
            after,
            lambda num: count(num, len(after), "the frozen student"),
            batch=batch,
        )
    return Scores(teacher, frozen, latencies)
