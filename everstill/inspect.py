"""What `status`, `versions` and `show` read from the registry, and how they print it. Reads only; works with everything down."""

import io
import math
import pathlib
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from everstill.config import EverstillSettings
from protos.errors import EverstillError, UnavailableError
from registry.bundle import read_manifest, version_of
from registry.ledger import Ledger
from registry.pointers import Pointers
from registry.status import read_statuses
from registry.store import NotFound, ObjectStore, open_store

#: A process that was silent for longer is said to be.
SILENT_S = 15.0


def status(settings: EverstillSettings) -> dict[str, Any]:
    """Return the pointers and every process's own status, with its age in seconds."""
    store, model = _existing_store(settings), settings.model.name
    pointers = Pointers(store, model)
    live, trial = pointers.live(), pointers.trial()
    processes = read_statuses(store, model)
    for body in processes.values():
        body["age_s"] = time.time() - body["time_unix_s"]
    return {
        "model": model,
        "live": version_of(live.digest) if live else None,
        "trial": trial.model_dump() if trial else None,
        "processes": processes,
    }


def versions(settings: EverstillSettings) -> dict[str, Any]:
    """Return every ledger line, oldest first; raises LedgerError where the chain is broken."""
    ledger = Ledger(_existing_store(settings), settings.model.name)
    num_lines = ledger.verify()
    return {
        "model": settings.model.name,
        "chain": f"{num_lines} lines, unbroken",
        "lines": [{**line.model_dump(mode="json"), "version": version_of(line.digest)} for line in ledger.lines()],
    }


def show(settings: EverstillSettings, version: str) -> dict[str, Any]:
    """Return a version's manifest and its ledger lines.

    Raises:
        EverstillError: no version, or more than one, begins like this.
    """
    store = _existing_store(settings)
    lines = Ledger(store, settings.model.name).lines()
    digests = sorted({line.digest for line in lines if line.digest.startswith(version)})
    if len(digests) != 1:
        known = ", ".join(sorted({version_of(line.digest) for line in lines})) or "none yet"
        what = "no version begins" if not digests else f"{len(digests)} versions begin"
        raise EverstillError(f"{what} with {version!r}", fix=f"Known are: {known}")
    digest = digests[0]
    try:
        manifest: dict[str, Any] | None = read_manifest(store, digest).model_dump(mode="json")
    except NotFound:
        manifest = None
    live = Pointers(store, settings.model.name).live()
    return {
        "version": version_of(digest),
        "digest": digest,
        "live": live is not None and live.digest == digest,
        "manifest": manifest,
        "lines": [line.model_dump(mode="json") for line in lines if digest in (line.digest, line.previous_digest)],
    }


def _existing_store(settings: EverstillSettings) -> ObjectStore:
    """Open the registry to look at it: unlike a process that works, looking makes no folder."""
    url = settings.registry.url
    if "://" not in url and not pathlib.Path(url).is_dir():
        raise UnavailableError(
            f"there is no registry at {url}",
            fix="Name the service's configuration with --config, or start a gateway or a loop first",
        )
    return open_store(url)


def render_status(body: dict[str, Any]) -> str:
    """Return the status as text."""
    lines = [f"model {body['model']}: " + (f"version {body['live']} is live" if body["live"] else "no version yet")]
    if body["trial"]:
        trial = body["trial"]
        lines.append(f"on trial: {version_of(trial['candidate'])}, on {trial['share']:.0%} of requests")
    for name, process in sorted(body["processes"].items()):
        if process.get("stopped"):
            state = "stopped"
        elif process["age_s"] > SILENT_S:
            state = f"silent for {process['age_s']:.0f} s"
        else:
            state = "running"
        lines.append(f"{process['process']} {name}: {state}, serving {process['live'] or 'nothing'}")
        if agreement := process.get("agreement"):
            lines.append(
                f"  agreement {agreement['estimate']:.3f} [{agreement['low']:.3f}, {agreement['high']:.3f}] "
                f"over {agreement['num']} sampled requests"
            )
        if pairs := process.get("pairs"):
            lines.append("  pairs " + ", ".join(f"{key} {value}" for key, value in pairs.items()))
        lines += [f"  refused {one['version']}: {one['reason']}" for one in process.get("refused", [])]
    return "\n".join(lines)


def render_versions(body: dict[str, Any]) -> str:
    """Return the ledger as a table."""
    table = Table(title=f"{body['model']}: {body['chain']}", title_justify="left")
    for column in ("line", "time (UTC)", "decision", "version", "wins", "losses", "requests", "E", "needed"):
        table.add_column(column)
    for line in body["lines"]:
        evidence = line["evidence"]
        gated = "log_e" in evidence
        table.add_row(
            str(line["number"]),
            time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(line["time_unix_s"])),
            line["kind"],
            line["version"],
            *(str(evidence.get(name, "")) for name in ("wins", "losses", "total")),
            f"{math.exp(min(evidence['log_e'], 700)):.3g}" if gated else "",
            f"{1 / evidence['alpha']:.3g}" if gated else "",
        )
    return _text(table)


def render_show(body: dict[str, Any]) -> str:
    """Return a version as text."""
    lines = [f"version {body['version']}" + (" (live)" if body["live"] else ""), f"digest {body['digest']}"]
    if body["manifest"]:
        manifest = body["manifest"]
        lines += [
            f"cut {manifest['created']} as {manifest['origin']} from "
            + (f"version {version_of(manifest['parent'])}" if manifest["parent"] else "nothing"),
            f"learned from {manifest['pairs_learned']} pairs in {manifest['steps']} steps, teacher {manifest['teacher_version']}",
        ]
    for line in body["lines"]:
        about = (
            "" if line["digest"] == body["digest"] else f" (of {version_of(line['digest'])}, compared with this one)"
        )
        evidence = ", ".join(f"{name} {value}" for name, value in line["evidence"].items())
        lines.append(f"ledger line {line['number']}: {line['kind']}{about}: {evidence}")
    return "\n".join(lines)


def _text(table: Table) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=140).print(table)
    return buffer.getvalue().rstrip()
