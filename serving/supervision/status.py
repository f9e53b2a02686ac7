"""The gateway's status object: what it says of itself for each of its models.

Decides its keys only. Main thread of the gateway's parent.
"""

import os
from collections.abc import Sequence
from typing import Any

from registry.bundle import version_of
from serving.supervision.child import Child
from serving.supervision.memory import Memories
from serving.supervision.rollout import Target


def body_of(model: str, target: Target, workers: Sequence[Child], mirror: Child, memories: Memories) -> dict[str, Any]:
    """Return what is said of one model: `live` is the version that every listening worker has reached."""
    digest = live_digest(model, target, workers)
    members = [_member(model, place, worker, memories) for place, worker in enumerate(workers)]
    added = [one["private_bytes"] for one in members if one["private_bytes"] is not None]
    return {
        "process": "gateway",
        "live": version_of(digest) if digest else None,
        "desired": version_of(target.digest) if target.digest else None,
        "pid": os.getpid(),
        "worker_pid": workers[0].pid,
        "mirror_pid": mirror.pid,
        "workers": members,
        # What one more costs: what nobody else maps, averaged over those that are there.
        "memory_per_added_worker_bytes": round(sum(added) / len(added)) if added else None,
    }


def live_digest(model: str, target: Target, workers: Sequence[Child]) -> str | None:
    """Return the digest that every listening worker has reached: while they differ, that of one that is behind."""
    serving = [worker.places[model].serving for worker in workers if worker.listening]
    return next((digest for digest in serving if digest != target.digest), serving[0] if serving else None)


def _member(model: str, place: int, worker: Child, memories: Memories) -> dict[str, Any]:
    pid, serving = worker.pid, worker.places[model].serving
    memory = memories.of(pid) if pid else None
    return {
        "worker": place,
        "pid": pid,
        "listening": worker.listening,
        "version": version_of(serving) if serving else None,
        "resident_bytes": memory.resident if memory else None,
        "private_bytes": memory.private if memory else None,
        "restarts": worker.restarts,
    }
