"""Status objects: what each process says of itself, for people and for `everstill status`.

Decides nothing but their place; the last writer wins, and nothing reads them to decide. Any thread, any process.
"""

import json
import platform
import time
from typing import Any

from registry.store import NotFound, ObjectStore


def write_status(store: ObjectStore, model: str, process_id: str, body: dict[str, Any]) -> None:
    """Write a process's status with this machine's name and the present time."""
    data = json.dumps({**body, "machine": platform.node(), "time_unix_s": time.time()}).encode()
    store.put(f"models/{model}/status/{process_id}.json", data)


def read_statuses(store: ObjectStore, model: str) -> dict[str, dict[str, Any]]:
    """Return every process's newest status by its id."""
    prefix = f"models/{model}/status"
    statuses = {}
    for path in store.list(prefix):
        try:
            body = json.loads(store.get(path).data)
        except (NotFound, ValueError):
            continue  # removed meanwhile, or not ours: one bad object doesn't hide the others
        if isinstance(body, dict):
            statuses[path.removeprefix(f"{prefix}/").removesuffix(".json")] = body
    return statuses
