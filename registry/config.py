"""Settings that every room shares, and how `everstill.toml` is read.

Decides the file's syntax, the precedence (environment over file over default) and what a mistake is called. A room's own
sections live in that room (`serving/config.py`, `distill_loop/config.py`); `everstill/config.py` joins them all. Environment
variables are named EVERSTILL_SECTION__KEY, e.g. EVERSTILL_GATEWAY__PORT=9000.
"""

import difflib
import pathlib
import tomllib
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from protos.errors import ConfigurationError
from protos.tensors import NUMPY_TYPES

ENVIRONMENT_PREFIX = "EVERSTILL_"


class Section(BaseModel):
    """One table of the file: unknown keys are errors, values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=True)


class TensorSpec(Section):
    """One input or output tensor of a model."""

    name: str = Field(description="Name of the tensor, as in the ONNX graph and in requests.", min_length=1)
    datatype: str = Field(description="Open Inference Protocol datatype, e.g. INT32 or FP32.")
    shape: tuple[int, ...] = Field(description="Dimensions; -1 is any size, and the first is the batch.", min_length=1)

    @field_validator("datatype")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in NUMPY_TYPES:
            raise ValueError(f"is not one of {', '.join(NUMPY_TYPES)}")
        return value


class ModelSection(Section):
    """What is served: the name that callers use, and the tensors that student and teacher share."""

    name: str = Field(
        "filetypes",
        description="Name of the model in requests and in the registry.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
    )
    inputs: tuple[TensorSpec, ...] = Field(
        (TensorSpec(name="bytes", datatype="INT32", shape=(-1, 2048)),),
        description="Input tensors, the same for student and teacher.",
        min_length=1,
    )
    output: str = Field("logits", description="Name of the student's output tensor, FP32 [batch, classes], raw logits.")
    num_classes: int = Field(214, description="Number of classes, the size of the output's last dimension.", ge=2)


class RegistrySection(Section):
    """Where bundles, pointers, ledger, checkpoints and status objects live."""

    url: str = Field("everstill-data/registry", description="A folder, relative to this file.")
    cache: pathlib.Path = Field(
        pathlib.Path("everstill-data/cache"),
        description="Folder for verified copies of bundles, relative to this file.",
    )


class StreamSection(Section):
    """The stream between mirror and loop; the embedded one is a single SQLite file."""

    path: pathlib.Path = Field(
        pathlib.Path("everstill-data/stream.sqlite"), description="File of the embedded stream, relative to this file."
    )
    partitions: int = Field(
        4,
        description="Number of partitions of the pairs and trials topics; fixed once the stream exists.",
        ge=1,
        le=1024,
    )
    retention_s: float = Field(7 * 86_400.0, description="Age after which messages are removed, in seconds.", gt=0)


class LogSection(Section):
    """How processes write their logs, always to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is written."
    )
    format: Literal["json", "console"] = Field(
        "json", description="One JSON object a line, or coloured text for people."
    )


class SharedSettings(BaseSettings):
    """The sections that every process reads; a room's settings add its own."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True, protected_namespaces=()
    )

    model: ModelSection = Field(ModelSection(), description="The model that is served.")
    registry: RegistrySection = Field(RegistrySection(), description="Where versions live.")
    stream: StreamSection = Field(StreamSection(), description="Where pairs travel.")
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


def load(path: pathlib.Path | None, schema: type[Settings]) -> Settings:
    """Read `everstill.toml` and the environment; relative paths are resolved against the file's folder.

    Args:
        path: the file, or None for defaults and environment only (paths are then relative to the working folder).

    Raises:
        ConfigurationError: unreadable file, bad TOML, an unknown key (with a suggestion) or an impossible value; all
            mistakes of a file are named at once.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(
                f"cannot read {path}: {error.strerror}", fix="Name a readable file with --config"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} is not TOML: {error}", fix="Mend the file at that place") from None
    where = str(path) if path else "the environment"
    try:
        settings = schema(**values)
    except ValidationError as error:
        mistakes = [_describe(dict(mistake), schema) for mistake in error.errors()]
        raise ConfigurationError(f"{where}: " + "; ".join(mistakes)) from None
    except SettingsError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    return _resolve(settings, (path.parent if path else pathlib.Path()).resolve())


def _describe(mistake: dict[str, Any], schema: type[BaseModel]) -> str:
    """Return one validation mistake as a sentence, with the nearest known key where the key is unknown."""
    place = ".".join(map(str, mistake["loc"]))
    if mistake["type"] != "extra_forbidden":
        reason = str(mistake["msg"]).removeprefix("Value error, ")
        return f"{place}: {reason} (got {mistake.get('input')!r})" if "input" in mistake else f"{place}: {reason}"
    section: Any = schema
    for step in mistake["loc"][:-1]:
        section = section.model_fields[step].annotation if isinstance(step, str) else section
        section = section.__args__[0] if hasattr(section, "__args__") else section
    known = sorted(section.model_fields) if hasattr(section, "model_fields") else []
    near = difflib.get_close_matches(str(mistake["loc"][-1]), known, n=1)
    return f"unknown key {place}" + (f", did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}")


def _resolve(settings: Settings, base: pathlib.Path) -> Settings:
    """Return the settings with every relative path made absolute."""
    updated = {}
    for name in type(settings).model_fields:
        section = getattr(settings, name)
        if not isinstance(section, Section):
            continue
        paths = {
            key: base / value
            for key in type(section).model_fields
            if isinstance(value := getattr(section, key), pathlib.Path)
        }
        if isinstance(section, RegistrySection) and "://" not in section.url:
            paths["url"] = str(base / section.url)  # type: ignore[assignment]
        updated[name] = section.model_copy(update=paths)
    return settings.model_copy(update=updated)
