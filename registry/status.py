"""Status objects: what each process says of itself, for people and for `everstill status`. Last writer wins; nothing reads them to decide."""

import json
import time
from typing import Any

from registry.store import NotFound, ObjectStore


def write_status(store: ObjectStore, model: str, process_id: str, body: dict[str, Any]) -> None:
    """Write a process's status with the present time."""
    data = json.dumps({**body, "time_unix_s": time.time()}).encode()
    store.put(f"models/{model}/status/{process_id}.json", data)


def read_statuses(store: ObjectStore, model: str) -> dict[str, dict[str, Any]]:
    """Return every process's newest status by its id."""
    prefix = f"models/{model}/status"
    statuses = {}
    for path in store.list(prefix):
        try:
            statuses[path.removeprefix(f"{prefix}/").removesuffix(".json")] = json.loads(store.get(path).data)
        except (NotFound, json.JSONDecodeError):
            continue  # removed or being replaced by a store without atomic writes; the next look sees it
    return statuses
