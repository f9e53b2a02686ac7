"""What `everstill doctor` looks at of the stream, embedded or Kafka, and of the secrets that guard it and what lies on disk. Reads only.

Decides what a missing topic means: a warning, since `everstill up` makes it. Brokers are asked by the stream's own room.
"""

import contextlib
import importlib.util
import pathlib
import sqlite3
import tomllib
from collections.abc import Iterator
from typing import Any

from everstill import rooms
from everstill.config import EverstillSettings
from everstill.doctor.check import Check, attempt, fail, ok, warn
from everstill.doctor.machine import FASTER
from protos.errors import ConfigurationError, UnavailableError
from registry.at_rest import MAGIC, key_id

#: A spool's record begins so long before what is sealed, which begins with MAGIC and the key's name.
RECORD_HEADER_BYTES, KEY_NAME_BYTES = 16, 8
CRC32C = "crc32c"


def stream(settings: EverstillSettings, config: pathlib.Path | None, *, makes_topics: bool) -> Iterator[Check]:
    """Check the stream that the configuration names.

    Args:
        makes_topics: whether who asks makes the topics that are missing.
    """
    bootstrap = settings.stream.kafka.bootstrap
    if not bootstrap:
        yield from attempt("stream", lambda: _embedded(settings.stream.path))
        return
    if importlib.util.find_spec(CRC32C) is None:
        yield warn(CRC32C, f"missing: {FASTER[CRC32C]}", "Install crc32c")
    answers: list[dict[str, Any]] = []

    def look() -> str:
        answers.append(rooms.stream_topics(config))
        return f"Kafka at {bootstrap} answers" + (
            f" over {settings.stream.kafka.security}" if _guarded(settings) else ""
        )

    yield from attempt("stream", look)
    for answer in answers:
        yield _topics(answer, makes_topics=makes_topics)


def secrets(settings: EverstillSettings, config: pathlib.Path | None) -> Iterator[Check]:
    """Check that secrets are read by nobody else, and that nothing on disk was sealed with a key that is gone."""
    if config is not None and (written := _secrets_in(config)):
        mode = config.stat().st_mode & 0o777
        about = f"secrets in {config.name}"
        if mode & 0o077:
            how = f"chmod 600 {config}, or set them as EVERSTILL_SECTION__KEY in the environment"
            yield warn(about, f"{', '.join(written)} can be read by others (mode {mode:o})", how)
        else:
            yield ok(about, f"{', '.join(written)}: only its owner can read them")
    key, older_keys = settings.at_rest.sealing_key, settings.at_rest.older_keys
    if unknown := _sealed_with(settings.capture.dir) - {key_id(one) for one in (key, *older_keys) if one}:
        yield fail(
            "at_rest",
            f"{settings.capture.dir} holds what was encrypted with the key {', '.join(sorted(one.hex() for one in unknown))}, which isn't configured",
            "Name that key in at_rest.previous_keys, or move the folder away",
            ConfigurationError,
        )
    elif key:
        older = f", {len(older_keys)} older read" if older_keys else ""
        yield ok("at_rest", f"captured inputs are encrypted with the key {key_id(key).hex()}{older}")
    elif older_keys:
        yield warn(
            "at_rest",
            f"nothing is encrypted any more; what {len(older_keys)} older keys encrypted is still read",
            "Set at_rest.key where captured inputs are to be encrypted",
        )


def _embedded(path: pathlib.Path) -> str:
    if not path.exists():
        return "empty: it is made at the first start"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2.0)) as connection:
            (num,) = connection.execute("SELECT count(*) FROM next_offset").fetchone()
            (first,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise UnavailableError(
            f"{path} can't be read: {error}",
            fix="Move it away with its -wal and -shm, or restore it; a new one is made",
        ) from None
    if first != "ok":
        raise UnavailableError(f"{path} is damaged: {first}", fix="Move it away; a new one is made")
    return f"{path.stat().st_size / 2**20:.1f} MiB, {num} partitions with messages"


def _topics(answer: dict[str, Any], *, makes_topics: bool) -> Check:
    about, states = f"topics {answer['prefix']}.*", [one["state"] for one in answer["topics"]]
    if "differs" in states:
        return fail(about, answer["problem"], answer["fix"], ConfigurationError)
    if missing := states.count("missing"):
        if makes_topics:
            return ok(about, f"{missing} of {len(states)} are missing, and made now")
        fix = "everstill up makes them, and so does everstill stream topics --create"
        return warn(about, f"{missing} of {len(states)} are missing", fix)
    if any(one["settings_unread"] for one in answer["topics"]):
        return ok(about, f"all {len(states)} have the right partitions; this user can't read their other settings")
    return ok(about, f"all {len(states)} are as configured")


def _guarded(settings: EverstillSettings) -> bool:
    return settings.stream.kafka.security != "plaintext"


def _secrets_in(config: pathlib.Path) -> list[str]:
    """Return the secrets that a file holds, by their settings' names."""
    values = tomllib.loads(config.read_text(encoding="utf-8"))
    at_rest, kafka = values.get("at_rest", {}), values.get("stream", {}).get("kafka", {})
    found = [f"at_rest.{name}" for name in ("key", "previous_keys") if at_rest.get(name)]
    return found + (["stream.kafka.password"] if kafka.get("password") else [])


def _sealed_with(folder: pathlib.Path) -> set[bytes]:
    """Return the names of the keys that sealed the first record of each segment of the spools (docs/formats.md)."""
    found: set[bytes] = set()
    for path in folder.glob("*/*/*.seg"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            begin = file.read(RECORD_HEADER_BYTES + len(MAGIC) + KEY_NAME_BYTES)[RECORD_HEADER_BYTES:]
            if begin.startswith(MAGIC):
                found.add(begin[len(MAGIC) :])
    return found
