"""The command `everstill doctor`: runs the checks, prints them as a table or JSON, and exits with what they mean together."""

import dataclasses
import io
import json
import pathlib
from collections.abc import Iterator, Mapping

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from everstill.config import EverstillSettings
from everstill.doctor import parts
from everstill.doctor.check import Check, exit_code, fail, ok
from everstill.doctor.machine import machine
from everstill.doctor.places import places
from everstill.doctor.stream import secrets, stream
from everstill.doctor.trust import trust
from everstill.options import ConfigOption, JsonOption, ModelOption, config_path, models_of
from protos.errors import ConfigurationError

EPILOG = """Example: everstill doctor

Example: everstill doctor --json | jq '.checks[] | select(.state != "ok")'"""
COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(config: ConfigOption = None, model: ModelOption = None, json_output: JsonOption = False) -> None:
    """Check environment, configuration, folders, ports, teacher and student, and say what to fix.

    Starts and changes nothing, but for a few processes that describe the models. Exit code 0 without failures (warnings are none), 2 where
    only the configuration is wrong, 4 where only something is away, else 1.
    """
    checks = list(examine(config, model))
    code = exit_code(checks)
    if json_output:
        print(json.dumps({"ok": code == 0, "checks": [dataclasses.asdict(one) for one in checks]}))
    else:
        print(render(checks))
    raise typer.Exit(code)


def examine(config: pathlib.Path | None, model: str | None) -> Iterator[Check]:
    """Yield every check in order: the machine first, then what the configuration asks for."""
    path = config_path(config)
    about = str(path) if path else "configuration"
    try:
        models = models_of(config, model)
    except ConfigurationError as error:
        yield from machine(None)
        yield fail(about, error.message, error.fix, ConfigurationError)
        return
    yield from machine(models)
    yield ok(
        about, f"{len(models)} model{'s' if len(models) != 1 else ''}: {', '.join(models)}" if path else "defaults"
    )
    yield from quick(models, path, makes_topics=False)
    for settings in models.values():
        yield from parts.student(settings, path, several=len(models) > 1)


def quick(
    models: Mapping[str, EverstillSettings], config: pathlib.Path | None, *, makes_topics: bool
) -> Iterator[Check]:
    """Yield the checks that `everstill up` makes before it starts anything."""
    yield from places(models)
    yield from stream(next(iter(models.values())), config, makes_topics=makes_topics)
    yield from secrets(next(iter(models.values())), config)
    yield from trust(next(iter(models.values())))
    for settings in models.values():
        yield from parts.teacher(settings)
        yield from parts.versions(settings)


def render(checks: list[Check]) -> str:
    """Return the checks as a table and a sentence."""
    table = Table(box=None, padding=(0, 1), show_header=False)
    for one in checks:
        found = Text(one.found)
        if one.state != "ok" and one.fix:
            found.append(f"\n-> {one.fix}", style="bold")
        table.add_row(Text(one.state, style=COLOURS[one.state]), one.about, found)
    buffer = io.StringIO()
    console = Console(file=buffer, width=Console().width, force_terminal=Console().is_terminal)
    console.print(table)
    failed, warned = (sum(one.state == state for one in checks) for state in ("fail", "warn"))
    verdict = "everything that was checked is fine" if not failed else f"{failed} to fix before it can work"
    warnings = f", {warned} to know about" if warned else ""
    return f"{buffer.getvalue()}\n{verdict}{warnings}"
