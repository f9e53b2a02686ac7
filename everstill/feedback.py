"""The command `everstill feedback`: says what was true of rows that were answered before, one from the command line or many as JSON lines.

Decides what a line must hold. A line that is wrong is told and passed over; where the gateway is away or full it stops, and says from which line to go on.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple

import typer

from everstill.options import ConfigOption, JsonOption
from everstill.reach import gateway_address, model_meant, settings_meant
from protos.errors import ConfigurationError, FormatError, UnavailableError
from serving.rpc.client import InferenceClient, RpcError

EPILOG = """Example: everstill feedback 01932b6f7d3a7c0e9b5a4c1d2e3f4a5b card_lost

Example: everstill feedback --json < labels.jsonl

A line: {"record_id": "01932b6f7d3a7c0e9b5a4c1d2e3f4a5b", "label": "card_lost", "row": 0}"""
KEYS = ("record_id", "label", "row")


class Said(NamedTuple):
    """What was true of one row."""

    record_id: str
    label: str | int
    row: int = 0


def feedback(
    record_id: Annotated[
        str | None, typer.Argument(help="As the answer gave it; none: JSON lines from standard input.")
    ] = None,
    label: Annotated[
        str | None, typer.Argument(help="The true class: its name, or its number where classes have no names.")
    ] = None,
    row: Annotated[int, typer.Option(min=0, help="Row of a request that had several.")] = 0,
    config: ConfigOption = None,
    model: Annotated[str | None, typer.Option(help="Model that answered; needed where there are several.")] = None,
    address: Annotated[
        str | None, typer.Option(help="host:port of the gateway; the configuration's where absent.")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.001, help="Deadline of a call, in seconds.")] = 10.0,
    retries: Annotated[int, typer.Option(min=0, help="Tries after the first, where the gateway is away or busy.")] = 5,
    json_output: JsonOption = False,
) -> None:
    """Tell the gateway what was true of answered rows; exit code 1 where it refused any.

    The loop compares it with what student and teacher said of those rows that were sampled: see everstill status. The first label of a row counts,
    so the same lines may be sent again.
    """
    if record_id is not None and label is None:
        raise ConfigurationError(
            "a record id without a label", fix="Give both, or neither and JSON lines on standard input"
        )
    lines: Iterable[tuple[str, Said | FormatError]]
    lines = lines_of(sys.stdin) if record_id is None or label is None else [("", Said(record_id, label, row))]
    settings = settings_meant(config, model, address)
    where = address or (gateway_address(settings) if settings else "")
    with InferenceClient(where, timeout_s=timeout_s, retries=retries) as client:
        num_sent, refused = send(client, model_meant(client, model, settings, address), lines)
    if json_output:
        print(json.dumps({"sent": num_sent, "refused": refused}))
    else:
        for one in refused:
            print(f"everstill: {one['line'] + ': ' if one['line'] else ''}{one['error']}", file=sys.stderr)
        print(f"{num_sent:,} sent, {len(refused):,} refused")
    raise typer.Exit(1 if refused else 0)


def send(
    client: InferenceClient, model: str, lines: Iterable[tuple[str, Said | FormatError]]
) -> tuple[int, list[dict[str, Any]]]:
    """Send each line; returns how many were taken, and what was said of those that were refused.

    Raises:
        UnavailableError: the gateway is away, or has no room; says after how many it stopped.
    """
    num_sent, refused = 0, list[dict[str, Any]]()
    for line, said in lines:
        if isinstance(said, FormatError):
            refused.append({"line": line, "error": str(said), "code": "INVALID_ARGUMENT"})
            continue
        try:
            client.feedback(model, said.record_id, said.label, said.row)
            num_sent += 1
        except UnavailableError as error:
            place = f"; stopped at {line}, {num_sent:,} were sent before" if line else ""
            raise UnavailableError(
                f"{error.message}{place}", fix="Send it again later: what was sent counts once"
            ) from None
        except RpcError as error:
            refused.append({"line": line, "error": error.message, "code": error.code})
    return num_sent, refused


def lines_of(text: Iterable[str]) -> Iterator[tuple[str, Said | FormatError]]:
    """Yield each line's number in words and what it says, or why it can't be read; empty lines are passed over."""
    for number, line in enumerate(text, 1):
        if line.strip():
            try:
                yield f"line {number}", said_by(line)
            except FormatError as error:
                yield f"line {number}", error


def said_by(line: str) -> Said:
    """Return what a line says; keys beside `KEYS` are passed over, so that lines of `everstill infer` with a label added will do.

    Raises:
        FormatError: it is not JSON, or a key is missing or of another type.
    """
    try:
        body = json.loads(line)
    except ValueError as error:
        raise FormatError(f"not JSON: {error}") from None
    if not isinstance(body, dict) or "record_id" not in body or "label" not in body:
        raise FormatError("no object with record_id and label", fix='Write {"record_id": "...", "label": "..."}')
    record_id, label, row = body["record_id"], body["label"], body.get("row", 0)
    if not isinstance(record_id, str):
        raise FormatError("record_id is no text", fix="Write it in hex, as the answer gave it")
    if not isinstance(label, str | int) or isinstance(label, bool):
        raise FormatError("label is neither text nor a whole number", fix="Write a class's name, or its number")
    if not isinstance(row, int) or isinstance(row, bool):
        raise FormatError("row is no whole number", fix="Leave it out where the request had one row")
    return Said(record_id, label, row)
