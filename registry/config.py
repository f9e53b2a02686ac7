"""Settings that every room shares, and how `everstill.toml` is read.

Decides the file's syntax, the precedence (environment over file over default) and what a mistake is called. Tables that every process
reads are in `registry/sections.py`, a room's own in that room (`serving/config.py`, `distill_loop/config.py`); `everstill/config.py`
joins them all. Environment variables are named EVERSTILL_SECTION__KEY, e.g. EVERSTILL_GATEWAY__PORT=9000. Tables [models.NAME.SECTION] give one of several
models its own values; each process reads the settings of the models that it works for.
"""

import difflib
import os
import pathlib
import tomllib
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from protos.errors import ConfigurationError
from registry.sections import (
    AtRestSection,
    BundlesSection,
    LogSection,
    ModelSection,
    RegistrySection,
    Section,
    SigningSection,
    StreamSection,
)

ENVIRONMENT_PREFIX = "EVERSTILL_"


class SharedSettings(BaseSettings):
    """The sections that every process reads; a room's settings add its own."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True, protected_namespaces=()
    )

    model: ModelSection = Field(ModelSection(), description="The model that is served.")
    registry: RegistrySection = Field(RegistrySection(), description="Where versions live.")
    signing: SigningSection = Field(SigningSection(), description="Who may publish versions.")
    bundles: BundlesSection = Field(BundlesSection(), description="What a version's files may be.")
    stream: StreamSection = Field(StreamSection(), description="Where pairs travel.")
    at_rest: AtRestSection = Field(AtRestSection(), description="How captured inputs lie on disk.")
    log: LogSection = Field(LogSection(), description="How processes log.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file; the file arrives as initial values."""
        return env_settings, init_settings


Settings = TypeVar("Settings", bound=SharedSettings)

MODELS = "models"
#: Sections that a table [models.NAME] may hold; every other section is shared by all models.
PER_MODEL = ("model", "teacher", "teacher_server", "capture", "learner", "gate", "release", "loop")


def load(path: pathlib.Path | None, schema: type[Settings], model: str | None = None) -> Settings:
    """Read `everstill.toml` and the environment; relative paths are resolved against the file's folder.

    Args:
        path: the file, or None for defaults and environment only (paths are then relative to the working folder).
        model: which of several models; None where the file has one.

    Raises:
        ConfigurationError: unreadable file, bad TOML, an unknown key (with a suggestion) or an impossible value (all
            mistakes of a file are named at once), an unknown model, or none named where there are several.
    """
    loaded = load_models(path, schema)
    if model is None and len(loaded) > 1:
        raise ConfigurationError(
            f"{path} describes {len(loaded)} models: {', '.join(loaded)}", fix="Name one of them with --model"
        )
    if model is not None and model not in loaded:
        near = difflib.get_close_matches(model, loaded, n=1)
        raise ConfigurationError(
            f"{path or 'the configuration'} describes no model {model!r}",
            fix=f"Did you mean {near[0]}?" if near else f"It has {', '.join(loaded)}",
        )
    return next(iter(loaded.values())) if model is None else loaded[model]


def load_models(path: pathlib.Path | None, schema: type[Settings]) -> dict[str, Settings]:
    """Return the settings of every model that the file describes, by name, in the file's order; raises as `load`."""
    values = _read(path)
    overrides = values.pop(MODELS, None)
    if overrides is None:
        settings = _validated(values, schema, path, "")
        return {settings.model.name: settings}
    if not isinstance(overrides, dict) or not overrides or not all(isinstance(one, dict) for one in overrides.values()):
        raise ConfigurationError(f"{path}: {MODELS} holds no table of a model", fix="Write [models.NAME.model]")
    loaded = {}
    for name, sections in overrides.items():
        for section in sections:
            if section not in PER_MODEL:
                near = difflib.get_close_matches(section, PER_MODEL, n=1)
                hint = f", did you mean {near[0]}?" if near else f"; a model's own are: {', '.join(PER_MODEL)}"
                if section in schema.model_fields:
                    hint = f"; all models share it: write [{section}]"
                raise ConfigurationError(f"{path}: unknown section {MODELS}.{name}.{section}{hint}")
        merged = _merged(values, sections)
        own = merged.setdefault("model", {})
        if isinstance(own, dict) and sections.get("model", {}).get("name", name) != name:
            raise ConfigurationError(f"{path}: {MODELS}.{name}.model.name is another name", fix="Leave it out")
        loaded[name] = _validated({**merged, "model": {**own, "name": name}}, schema, path, name)
    return loaded


def _read(path: pathlib.Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}", fix="Name a readable file with --config"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}", fix="Mend the file at that place") from None


def _merged(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return tables laid over others, key by key; a value that is no table replaces what was there."""
    merged = dict(shared)
    for key, value in own.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _validated(values: dict[str, Any], schema: type[Settings], path: pathlib.Path | None, model: str) -> Settings:
    where = str(path) if path else "the environment"
    if model:
        where += f", model {model}"
    try:
        settings = schema(**values)
    except ValidationError as error:
        blamed: dict[str, list[str]] = {}
        for mistake in error.errors():
            source = _variable_of(mistake["loc"]) or where
            blamed.setdefault(source, []).append(_describe(dict(mistake), schema))
        raise ConfigurationError(
            "; ".join(f"{source}: {'; '.join(mistakes)}" for source, mistakes in blamed.items())
        ) from None
    except SettingsError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    return _resolve(settings, (path.parent if path else pathlib.Path()).resolve())


def _variable_of(place: tuple[int | str, ...]) -> str:
    """Return the environment variable that a value came from, or nothing: then it is the file's."""
    names = [ENVIRONMENT_PREFIX + "__".join(str(step) for step in place[:end]) for end in range(len(place), 0, -1)]
    given = {name.upper(): name for name in os.environ}
    return next((given[name.upper()] for name in names if name.upper() in given), "")


def _describe(mistake: dict[str, Any], schema: type[BaseModel]) -> str:
    """Return one validation mistake as a sentence, with the nearest known key where the key is unknown."""
    place = ".".join(map(str, mistake["loc"]))
    if mistake["type"] != "extra_forbidden":
        reason = str(mistake["msg"]).removeprefix("Value error, ")
        got = mistake.get("input")
        shown = "" if "input" not in mistake or isinstance(got, dict | Section) else f" (got {got!r})"
        return f"{place}: {reason}{shown}"
    section: Any = schema
    for step in mistake["loc"][:-1]:
        section = section.model_fields[step].annotation if isinstance(step, str) else section
        section = section.__args__[0] if hasattr(section, "__args__") else section
    known = sorted(section.model_fields) if hasattr(section, "model_fields") else []
    near = difflib.get_close_matches(str(mistake["loc"][-1]), known, n=1)
    return f"unknown key {place}" + (f", did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}")


def _resolve(settings: Settings, base: pathlib.Path) -> Settings:
    """Return the settings with every relative path made absolute."""
    sections = {
        name: _resolved(section, base)
        for name in type(settings).model_fields
        if isinstance(section := getattr(settings, name), Section)
    }
    return settings.model_copy(update=sections)


def _resolved(section: Section, base: pathlib.Path) -> Section:
    updated: dict[str, Any] = {}
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, pathlib.Path):
            updated[key] = base / value
        elif isinstance(value, Section):
            updated[key] = _resolved(value, base)
    if isinstance(section, RegistrySection) and "://" not in section.url:
        updated["url"] = str(base / section.url)
    return section.model_copy(update=updated)
