"""What several commands take from the command line: the configuration, one of its models, JSON instead of text.

Decides which file is meant where none is named, and how several models are printed. Used by the command modules.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Annotated, Any

import typer

from everstill.config import EverstillSettings
from registry.config import load, load_models

DEFAULT_CONFIG = pathlib.Path("everstill.toml")

ConfigOption = Annotated[
    pathlib.Path | None,
    typer.Option("--config", help="Configuration file; ./everstill.toml where it exists, else defaults."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="One of the configuration's models; all where absent.")
]


def config_path(config: pathlib.Path | None) -> pathlib.Path | None:
    """Return the file that is meant; None is defaults and environment only."""
    return config if config is not None or not DEFAULT_CONFIG.exists() else DEFAULT_CONFIG


def settings_of(config: pathlib.Path | None, model: str | None = None) -> EverstillSettings:
    """Return one model's settings; raises ConfigurationError where there are several and none is named."""
    return load(config_path(config), EverstillSettings, model)


def models_of(config: pathlib.Path | None, model: str | None = None) -> dict[str, EverstillSettings]:
    """Return every model's settings by name, or only those of the one that is named."""
    if model is None:
        return load_models(config_path(config), EverstillSettings)
    return {model: load(config_path(config), EverstillSettings, model)}


def print_each(
    config: pathlib.Path | None,
    model: str | None,
    read: Callable[[EverstillSettings], dict[str, Any]],
    render: Callable[[dict[str, Any]], str],
    json_output: bool,
) -> None:
    """Print one model's body, or, where there are several, each under its name."""
    bodies = {name: read(settings) for name, settings in models_of(config, model).items()}
    if not json_output:
        print("\n\n".join(render(body) for body in bodies.values()))
    elif len(bodies) == 1:
        print(json.dumps(next(iter(bodies.values()))))
    else:
        print(json.dumps({"models": bodies}))
