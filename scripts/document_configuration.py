"""Writes docs/configuration.md from the settings' schema: `python -m scripts.document_configuration [--check]`.

Decides how a key is shown: its type, bounds, default, sentence and environment variable. Everything else is in the
settings themselves. Called by hand after a change of settings, and with --check by a test.
"""

import argparse
import pathlib
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from everstill.config import EverstillSettings
from registry.config import ENVIRONMENT_PREFIX

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "configuration.md"
HEAD = """# Configuration

<!-- Written by `python -m scripts.document_configuration` from the settings' schema: change the schema, not this page. -->

One `everstill.toml` configures every process of a deployment; each reads the tables that concern it. Every key has a
default, so the file may be short or missing.

- **Precedence:** environment variables over the file over the defaults. A key's variable is
  `EVERSTILL_<TABLE>__<KEY>`, e.g. `EVERSTILL_GATEWAY__PORT=9000`; a list is given as JSON.
- **Mistakes:** an unknown key or table is an error that names the nearest known one. All mistakes of a file are told at
  once, on one line, before anything starts (exit code 2).
- **Paths** are relative to the file's folder; without a file, to the working folder.
- `everstill config` prints what applies; `everstill config --schema` prints the JSON Schema.
"""
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}


def type_name(annotation: Any) -> str:
    """Return a type as the reader of a TOML file thinks of it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin is tuple:
        return f"list of {type_name(arguments[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(one) for one in arguments if one is not type(None))
    if origin is dict:
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"`{annotation.__name__}`"
    names = {int: "integer", float: "number", bool: "boolean", str: "string", SecretStr: "string", pathlib.Path: "path"}
    return names.get(annotation, str(annotation))


def bounds(field: FieldInfo) -> str:
    """Return what a value must keep to, e.g. `≥ 0, ≤ 1`."""
    found = []
    for one in field.metadata:
        found += [f"{sign} {getattr(one, key):,}" for key, sign in SIGNS.items() if getattr(one, key, None) is not None]
        if pattern := getattr(one, "pattern", None):
            found.append(f"matches `{pattern}`")
    return ", ".join(found)


def default(field: FieldInfo) -> str:
    """Return a default as it would stand in the file."""
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "unset"
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str | pathlib.Path):
        return f'`"{value}"`'
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, tuple):
        return "`[]`" if not value else "`[" + ", ".join(inline_table(one) for one in value) + "]`"
    return f"`{value}`"


def inline_table(section: Any) -> str:
    """Return a section inside a list as TOML."""
    if not isinstance(section, BaseModel):
        return str(section)
    pairs = (f"{key} = {list(value) if isinstance(value, tuple) else repr(value)}" for key, value in section)
    return "{ " + ", ".join(pairs).replace("'", '"') + " }"


def table_rows(section: type[BaseModel]) -> Iterator[str]:
    """Yield the table of a section's keys."""
    yield "| key | type | default | what it is |"
    yield "|---|---|---|---|"
    for key, field in section.model_fields.items():
        kind = ", ".join(part for part in (type_name(field.annotation), bounds(field)) if part)
        yield f"| `{key}` | {kind.replace('|', chr(92) + '|')} | {default(field)} | {field.description} |"


def nested(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield the sections inside a section, those of its lists too."""
    for field in section.model_fields.values():
        for one in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(one, type) and issubclass(one, BaseModel):
                yield one


def page() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for name, field in EverstillSettings.model_fields.items():
        section = field.annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            raise TypeError(f"{name} is not a table")
        prefix = f"{ENVIRONMENT_PREFIX}{name.upper()}__"
        lines += [
            f"## `[{name}]`",
            "",
            f"{section.__doc__}",
            "",
            f"Environment: `{prefix}<KEY>`.",
            "",
            *table_rows(section),
            "",
        ]
        for inner in nested(section):
            lines += [f"`{inner.__name__}`: {inner.__doc__}", "", *table_rows(inner), ""]
    return "\n".join(lines)


def main() -> int:
    """Write the page, or with --check say whether it is what the schema gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page differs")
    arguments = parser.parse_args()
    text = page()
    if not arguments.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE.name} differs from the schema: run `python -m scripts.document_configuration`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
