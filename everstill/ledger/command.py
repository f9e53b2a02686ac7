"""The commands `everstill ledger [list]`, `ledger verify` and `ledger audit`: what was decided, whether the record is whole, whether a verdict holds.

Decides nothing and writes nothing. Works with everything down.
"""

import json
from typing import Annotated, Any

import typer

from everstill.become import become
from everstill.config import EverstillSettings
from everstill.ledger.sentences import rows
from everstill.looking import existing_store
from everstill.options import ConfigOption, JsonOption, ModelOption, print_each
from protos.errors import FormatError
from registry.ledger import Ledger, LedgerError, Line
from registry.store import ObjectStore
from registry.witnesses import Witness, parse, seen, verify, witnesses

app = typer.Typer(
    invoke_without_command=True,
    help="Print every decision; verify that the record is whole; judge a past trial again.",
    epilog="Example: everstill ledger verify --json",
)
AtOption = Annotated[
    list[str] | None,
    typer.Option("--at", metavar="NUMBER:HASH", help="A line that you have kept: it must be there as it was."),
]


@app.callback()
def ledger(
    context: typer.Context, config: ConfigOption = None, model: ModelOption = None, json_output: JsonOption = False
) -> None:
    """Print every decision, or what the command below it says."""
    if context.invoked_subcommand is None:
        list_lines(config, model, json_output)


@app.command("list", epilog="Example: everstill ledger list --json")
def list_lines(config: ConfigOption = None, model: ModelOption = None, json_output: JsonOption = False) -> None:
    """Print every line of the ledger, oldest first, as a sentence."""
    print_each(config, model, _lines_of, _text, json_output)


def _lines_of(settings: EverstillSettings) -> dict[str, Any]:
    model = settings.model.name
    lines = Ledger(existing_store(settings), model).lines()
    return {"model": model, "lines": [json.loads(line.to_json()) for line in lines]}


@app.command("verify", epilog="Example: everstill ledger verify intents --at 12:3fa2b1c4d5e6")
def verify_lines(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="One model; all where absent.")] = None,
    config: ConfigOption = None,
    at: AtOption = None,
    json_output: JsonOption = False,
) -> None:
    """Find any line that was changed, taken out, put in, or cut off, and any trial whose kept rows were changed; exit code 3 where there is one.

    What was cut off is missed by those who saw it: the live pointer, the loop's checkpoint, the status objects, and you (--at).
    """
    kept, found = [parse(text) for text in at or ()], list[bool]()

    def look(settings: EverstillSettings) -> dict[str, Any]:
        body = examine(existing_store(settings), settings.model.name, kept)
        found.append(body["whole"])
        return body

    print_each(config, name, look, _render, json_output)
    raise typer.Exit(0 if all(found) else FormatError.exit_code)


@app.command("audit", epilog="Example: everstill ledger audit t-3fa2b1c4d5e6")
def audit(
    trial: Annotated[str, typer.Argument(help="The trial's id, or the number of its line.")],
    config: ConfigOption = None,
    model: ModelOption = None,
    json_output: JsonOption = False,
) -> None:
    """Judge a past trial again from its kept rows: to the same verdict and numbers, or exit code 3."""
    more = ["--json"] if json_output else []
    become("distill_loop.audit_app", trial, *more, config=config, model=model)


def examine(store: ObjectStore, model: str, kept: list[Witness]) -> dict[str, Any]:
    """Return what is found of one model's ledger: whole, or the first problem and its line."""
    found, problem, number, lines = witnesses(store, model), "", None, list[Line]()
    ledger = Ledger(store, model)
    try:
        lines = verify(ledger, [*found, *kept])
        for line in lines:
            if line.rows_digest is not None:
                ledger.kept_rows(line)
    except LedgerError as error:
        problem, number = str(error), error.line or None
    newest = lines[-1] if lines else None
    return {
        "model": model,
        "whole": not problem,
        "problem": problem,
        "line": number,
        "lines": len(lines),
        "newest": seen(newest),
        "seen_by": [{"who": one.who, "line": one.number} for one in [*found, *kept]],
    }


def _text(body: dict[str, Any]) -> str:
    num = len(body["lines"])
    head = f"{body['model']}: {num} line{'' if num == 1 else 's'}"
    return "\n".join([head, *rows(map(Line.model_validate, body["lines"]))])


def _render(body: dict[str, Any]) -> str:
    if not body["whole"]:
        return f"{body['model']}: {body['problem']}"
    if not body["lines"]:
        return f"{body['model']}: no line yet"
    newest = body["newest"]
    who = ", ".join(dict.fromkeys(one["who"] for one in body["seen_by"])) or "nobody else"
    return (
        f"{body['model']}: {body['lines']} lines, unbroken, kept rows as they were; "
        f"the newest is {newest['number']}:{newest['hash'][:16]}, known too to: {who}"
    )
