"""What `status`, `versions` and `show` read from the registry, and how they print it. Reads only; works with everything down.

Of a running gateway it also reads /metrics: how much the teacher was asked, and what waits in the mirror's spools.
"""

import io
import math
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from everstill.config import EverstillSettings
from everstill.ledger.sentences import describe, power
from everstill.ledger.story import story
from everstill.looking import existing_store, known_digests
from everstill.metrics import SPOOL_BYTES, Traffic, read, traffic_of
from everstill.signatures import Signatures
from registry.bundle import read_manifest, version_of
from registry.ledger import Ledger, LedgerError, Line
from registry.pointers import Live, Pointers
from registry.sections import StreamSection
from registry.standing import Standing, find_digest
from registry.status import read_statuses
from registry.store import NotFound, ObjectStore

#: A process that was silent for longer is said to be.
SILENT_S = 15.0
#: Of the widest table, the ledger with two names in a line.
WIDTH = 180


def status(settings: EverstillSettings) -> dict[str, Any]:
    """Return one model's pointers, its processes' own statuses with their age in seconds, and the traffic of its gateways."""
    store, model = existing_store(settings), settings.model.name
    pointers = Pointers(store, model)
    live, trial = pointers.live(), pointers.trial()
    processes = read_statuses(store, model)
    for body in processes.values():
        body["age_s"] = time.time() - body["time_unix_s"]
    pages = _pages(model, processes)
    body = {
        "model": model,
        "live": version_of(live.digest) if live else None,
        **_standing(store, model, live),
        "trial": trial.model_dump() if trial else None,
        "processes": processes,
        "traffic": _traffic(pages),
        "spooled": _spooled(pages, settings),
        "stream": _which_stream(settings.stream),
    }
    if body["trial"]:
        counted = next(
            (one["trial"] for one in processes.values() if one.get("trial") and one["process"] == "loop"), None
        )
        own = counted if counted and counted["trial_id"] == body["trial"]["trial_id"] else None
        body["trial"] |= {"evidence": own, "needed_log_e": -math.log((own or {}).get("alpha") or settings.gate.alpha)}
    return body


def _standing(store: ObjectStore, model: str, live: Live | None) -> dict[str, Any]:
    """Return who decided what serves, and what holds it there; a ledger that is damaged is said to be."""
    try:
        standing = Standing.of(Ledger(store, model).uncut())
    except LedgerError as error:
        return {"decided": None, "pin": None, "freeze": None, "ledger": str(error)}
    moving = standing.moving
    behind = moving is not None and (live is None or live.ledger_line < moving.number)
    return {
        "decided": _who(standing.arrival),
        "pin": _who(standing.pin),
        "freeze": _who(standing.freeze),
        "ledger": f"line {moving.number} is decided and the live pointer doesn't follow yet"
        if moving and behind
        else "",
    }


def _who(line: Line | None) -> dict[str, Any] | None:
    """Return a decision in short: which, of what, by whom, when and why."""
    if line is None:
        return None
    return {
        "line": line.number,
        "kind": line.kind,
        "version": version_of(line.digest),
        "actor": line.actor,
        "reason": str(line.evidence.get("reason") or ""),
        "time_unix_s": line.time_unix_s,
        "text": describe(line),
    }


def _which_stream(settings: StreamSection) -> dict[str, str]:
    """Return which stream the configuration names, and where it is."""
    if settings.kafka.bootstrap:
        return {"kind": "kafka", "where": settings.kafka.bootstrap, "prefix": settings.prefix}
    return {"kind": "embedded", "where": str(settings.path)}


def _pages(model: str, processes: dict[str, dict[str, Any]]) -> list[dict[str, float]]:
    """Return what the running gateways count since they started, of those whose /metrics answers."""
    read_of = (
        read(process["metrics_address"], model)
        for process in processes.values()
        if process["process"] == "gateway" and is_running(process) and process.get("metrics_address")
    )
    return [page for page in read_of if page is not None]


def _traffic(pages: list[dict[str, float]]) -> dict[str, Any] | None:
    """Return how many rows were answered, and about how many the teacher was asked; None where no gateway says."""
    if not pages:
        return None
    counted = [traffic_of(page) for page in pages]
    rows, asked = sum(one.rows for one in counted), sum(one.asked for one in counted)
    return {"rows": rows, "asked": asked, "teacher_share": Traffic(rows, asked).teacher_share}


def _spooled(pages: list[dict[str, float]], settings: EverstillSettings) -> dict[str, int] | None:
    """Return the bytes that wait in the spools of all gateways, and their bound; None where no mirror says."""
    counts = [int(page[SPOOL_BYTES]) for page in pages if SPOOL_BYTES in page]
    return {"bytes": sum(counts), "bound_bytes": len(counts) * settings.capture.spool_bytes} if counts else None


def is_running(process: dict[str, Any]) -> bool:
    """Whether a process told its status lately, and not that it stopped. `age_s` is set by `status`."""
    return not process.get("stopped") and process["age_s"] <= SILENT_S


def versions(settings: EverstillSettings) -> dict[str, Any]:
    """Return every ledger line, oldest first; raises LedgerError where the chain is broken."""
    store = existing_store(settings)
    ledger = Ledger(store, settings.model.name)
    num_lines = ledger.verify()
    signatures = Signatures(store, settings)
    return {
        "model": settings.model.name,
        "chain": f"{num_lines} line{'' if num_lines == 1 else 's'}, unbroken",
        "lines": [
            {
                **line.model_dump(mode="json"),
                "version": version_of(line.digest),
                "signature": signatures.of(line.digest),
            }
            for line in ledger.lines()
        ],
    }


def show(settings: EverstillSettings, version: str) -> dict[str, Any]:
    """Return a version's manifest, its ledger lines and their story; the candidate on trial is known too.

    Raises:
        EverstillError: no version, or more than one, begins like this.
    """
    store = existing_store(settings)
    lines = Ledger(store, settings.model.name).lines()
    pointers = Pointers(store, settings.model.name)
    live, trial = pointers.live(), pointers.trial()
    digest = find_digest(version, known_digests(lines, trial), settings.model.name)
    try:
        manifest: dict[str, Any] | None = read_manifest(store, digest).model_dump(mode="json")
    except NotFound:
        manifest = None
    return {
        "model": settings.model.name,
        "version": version_of(digest),
        "digest": digest,
        "live": live is not None and live.digest == digest,
        "on_trial": trial is not None and trial.candidate == digest,
        "why": story(digest, lines, on_trial=trial is not None and trial.candidate == digest),
        "manifest": manifest,
        "signature": Signatures(store, settings).of(digest),
        "lines": [line.model_dump(mode="json") for line in lines if digest in (line.digest, line.previous_digest)],
    }


def render_status(body: dict[str, Any]) -> str:
    """Return the status as text."""
    lines = [f"model {body['model']}: " + (f"version {body['live']} is live" if body["live"] else "no version yet")]
    processes = sorted(body["processes"].items())
    lines += _decisions(body)
    if body["trial"]:
        lines += _trial(body["trial"], any(is_running(process) for _, process in processes))
    if counted := body.get("traffic"):
        share = "" if counted["teacher_share"] is None else f", {counted['teacher_share']:.1%}"
        lines.append(
            f"since the gateway started: {counted['rows']:,} rows answered, teacher asked about {counted['asked']:,}{share} "
            "(with what it answered before the first version)"
        )
    if (spooled := body.get("spooled")) and spooled["bytes"]:
        held, bound = (f"{spooled[name] / 2**20:,.1f} MiB" for name in ("bytes", "bound_bytes"))
        lines.append(f"the mirror's spools hold {held} of at most {bound}: what waits for the stream, or the teacher")
    for name, process in processes:
        lines += _process(name, process)
    if (stream := body.get("stream")) and stream["kind"] == "kafka":
        lines.append(f"stream: Kafka at {stream['where']}, topics {stream['prefix']}.{body['model']}.*")
    if body["processes"] and not any(is_running(process) for _, process in processes):
        lines.append("nothing runs here now; everstill up starts everything")
    return "\n".join(lines)


def _decisions(body: dict[str, Any]) -> list[str]:
    """Return who decided what serves, what holds it there, and what is wrong with the ledger."""
    lines = []
    if who := body.get("decided"):
        lines.append(f"  since line {who['line']}: {who['text']} ({who['actor']})")
    for hold in (body.get("pin"), body.get("freeze")):
        if hold:
            lines.append(f"{hold['text']} (line {hold['line']}, {hold['actor']}): nothing is promoted")
    if body.get("ledger"):
        lines.append(f"ledger: {body['ledger']}")
    return lines


def _trial(trial: dict[str, Any], runs: bool) -> list[str]:
    """Return what is known of the open trial: who, on what, and the evidence so far."""
    candidate = version_of(trial["candidate"])
    first = (
        f"on trial: {candidate}, on {trial['share']:.0%} of requests"
        if runs
        else f"a trial of {candidate} is open, and goes on when gateway and loop run again"
    )
    evidence = trial.get("evidence")
    if not evidence:
        return [first]
    e, needed = power(evidence["log_e"]), power(trial["needed_log_e"])
    left = (evidence.get("requests_needed") or 0) - evidence["total"]  # what is needed is a total
    outlook = f"; at this rate about {left:,} more requests" if left > 0 and runs else ""
    return [
        first,
        f"  {evidence['wins']} wins, {evidence['losses']} losses in {evidence['total']:,} requests, "
        f"{evidence['pending']} wait for the teacher: E = {e} of {needed} needed{outlook}",
    ]


def _process(name: str, process: dict[str, Any]) -> list[str]:
    """Return what a process says of itself."""
    if process.get("stopped"):
        state = "stopped"
    elif process["age_s"] > SILENT_S:
        state = f"silent for {process['age_s']:.0f} s"
    else:
        state = "running"
    kind, live = process["process"], process.get("live")
    who = kind if kind == name else f"{kind} {name}"
    if kind == "loop":
        doing = f"its newest version is {live}" if live else "no version released yet"
    else:
        where = f" on {process['address']}" if process.get("address") and state == "running" else ""
        doing = f"serving {live or 'nothing'}{where}"
    lines = [f"{who}: {state}, {doing}"]
    if agreement := process.get("agreement"):
        lines.append(
            f"  agreement {agreement['estimate']:.3f} [{agreement['low']:.3f}, {agreement['high']:.3f}] "
            f"over {agreement['num']} sampled requests"
        )
    lines += _labels(process.get("labels") or {})
    lines += _stream(process)
    if pairs := process.get("pairs"):
        lines.append("  pairs " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in pairs.items()))
    if cut := process.get("last_cut"):
        lines.append(_cut(cut))
    workers = [one for one in process.get("workers", []) if one.get("pid")]
    if len(workers) > 1 and state == "running":
        added = process.get("memory_per_added_worker_bytes")
        memory = f", {added / 2**20:.0f} MiB for each one more" if added else ""
        lines.append(f"  {len(workers)} workers{memory}, {sum(one.get('restarts', 0) for one in workers)} restarts")
    lines += [f"  refused {one['version']}: {one['reason']}" for one in process.get("refused", [])]
    return lines


def _labels(labels: dict[str, Any]) -> list[str]:
    """Return what feedback says of student and teacher, and what became of it; nothing where none ever came."""
    if not labels:
        return []
    lines = []
    if labels["student"]:
        shares = [
            f"{who} {labels[who]['estimate']:.3f} [{labels[who]['low']:.3f}, {labels[who]['high']:.3f}]"
            for who in ("student", "teacher")
        ]
        lines.append(f"  right by feedback: {', '.join(shares)} over {labels['student']['num']} labelled requests")
    fates = ("joined", "no_estimate", "late", "repeated", "unmatched", "unusable", "waiting")
    counts = {fate: labels.get(fate, 0) for fate in fates}
    said = [f"{fate.replace('_', ' ')} {num:,}" for fate, num in counts.items() if num or fate == "joined"]
    lines.append("  labels " + ", ".join(said))
    return lines


def _stream(process: dict[str, Any]) -> list[str]:
    """Return how far a loop is behind its stream, and what of the stream is not accounted for."""
    lines = [f"  it waits for the stream: {process['away']}"] if process.get("away") else []
    lag, waited, stale = (process.get(name) for name in ("lag", "oldest_waiting_s", "staleness_s"))
    knows = f"the newest pair that the live version knows is {stale:,.0f} s old" if stale is not None else ""
    if lag is not None:
        oldest = f", the oldest for {waited:.0f} s" if lag and waited is not None else ""
        lines.append(f"  {lag:,} messages wait to be read{oldest}{'; ' * bool(knows)}{knows}")
    elif knows:
        lines.append(f"  {knows}")
    accounts = process.get("accounts") or {}
    if accounts.get("accepted") is not None:
        more = (
            f", {accounts['unconfirmed']:,} were read that no mirror has reported yet"
            if accounts.get("unconfirmed")
            else ""
        )
        lines.append(
            f"  the stream took {accounts['accepted']:,} pairs, {accounts['read']:,} were read, {accounts['open']:,} are open{more}"
        )
    breaker = process.get("breaker") or {}
    if breaker.get("open_s") or breaker.get("open_now"):
        now = f", and now, says {', '.join(breaker['open_now'])}" if breaker["open_now"] else ""
        lines.append(f"  the teacher was away for {breaker['open_s']:,.0f} s, summed over gateways{now}")
    if gaps := process.get("gaps"):
        lines.append(f"  {gaps:,} messages were removed by retention before they were read: see everstill versions")
    return lines


def _cut(cut: dict[str, Any]) -> str:
    """Return what became of the newest candidate: why nothing improves, where nothing does."""
    which = f" {cut['version']}" if cut.get("version") else ""
    reason = f": {cut['reason']}" if cut.get("reason") else ""
    return f"  newest candidate{which} {cut.get('outcome', 'was cut')}{reason}"


def render_versions(body: dict[str, Any]) -> str:
    """Return the ledger as a table."""
    table = Table(title=f"{body['model']}: {body['chain']}", title_justify="left")
    for column in (
        "line",
        "time (UTC)",
        "decision",
        "version",
        "wins",
        "losses",
        "requests",
        "E",
        "needed",
        "by",
        "signed by",
    ):
        table.add_column(column)
    for line in body["lines"]:
        evidence = line["evidence"]
        gated = "log_e" in evidence
        table.add_row(
            str(line["number"]),
            time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(line["time_unix_s"])),
            _decision(line),
            line["version"],
            *(str(evidence.get(name, "")) for name in ("wins", "losses", "total")),
            power(evidence["log_e"]) if gated else "",
            f"{1 / evidence['alpha']:.3g}" if gated else "",
            line["actor"],
            _signed_by(line["signature"]),
        )
    return _text(table)


def _decision(line: dict[str, Any]) -> str:
    """Return what a ledger line decided; of a gap, which messages are gone, or where the stream was cut off or became another one."""
    if line["kind"] != "gap":
        return str(line["kind"])
    return describe(Line.model_validate({name: line[name] for name in Line.model_fields if name in line}))


def _signed_by(signature: dict[str, str]) -> str:
    """Return a signature in a word: who signed, or why nobody is taken to have."""
    return (
        signature["key"]
        if signature["state"] == "signed"
        else ""
        if signature["state"] == "none"
        else signature["state"]
    )


def render_show(body: dict[str, Any]) -> str:
    """Return a version as text."""
    state = " (live)" if body["live"] else " (on trial)" if body.get("on_trial") else ""
    lines = [f"version {body['version']}{state}", f"digest {body['digest']}"]
    if body["manifest"]:
        manifest = body["manifest"]
        lines += [
            f"cut {manifest['created']} as {manifest['origin']} from "
            + (f"version {version_of(manifest['parent'])}" if manifest["parent"] else "nothing"),
            f"learned from {manifest['pairs_learned']} pairs in {manifest['steps']} steps, teacher {manifest['teacher_version']}",
        ]
    lines.append(f"signature: {body['signature']['says']}")
    return "\n".join([*lines, *body["why"]])


def _text(table: Table) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=WIDTH).print(table)
    return buffer.getvalue().rstrip()
