"""Reading everstill.toml: precedence, and what a mistake is told like."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from everstill.config import EverstillSettings
from protos.errors import ConfigurationError
from registry.config import load
from serving.config import ServingSettings
from tests.support.environment import environment


def write(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "everstill.toml"
    path.write_text(text)
    return path


def keys(model: type[BaseModel], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of a section and of the sections inside it."""
    for name, field in model.model_fields.items():
        yield f"{place}{name}", field
        for annotation in (field.annotation, *get_args(field.annotation)):
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from keys(annotation, f"{place}{name}.")


def test_every_key_has_a_sentence() -> None:
    without = [place for place, field in keys(EverstillSettings) if not (field.description or "").endswith(".")]

    assert not without


def test_every_key_of_time_or_size_names_its_unit() -> None:
    units = {"_s": "second", "_ms": "millisecond", "_bytes": "bytes", "_ratio": "share"}

    for place, field in keys(EverstillSettings):
        for suffix, unit in units.items():
            if place.endswith(suffix) and not place.endswith("per_s"):
                assert unit in field.description.lower(), place


def test_defaults_need_no_file() -> None:
    settings = load(None, EverstillSettings)

    assert settings.capture.rate == 0.2
    assert settings.registry.cache.is_absolute()


def test_relative_paths_are_resolved_against_the_files_folder(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, '[registry]\nurl = "here"\ncache = "there"\n[stream]\npath = "/absolute.sqlite"\n')

    settings = load(path, EverstillSettings)

    assert settings.registry.url == str(tmp_path / "here")
    assert settings.registry.cache == tmp_path / "there"
    assert settings.stream.path == pathlib.Path("/absolute.sqlite")


def test_environment_overrides_the_file_key_by_key(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "[gateway]\nport = 9000\nmax_batch = 4\n")

    with environment(EVERSTILL_GATEWAY__PORT="9100"):
        settings = load(path, EverstillSettings)

    assert (settings.gateway.port, settings.gateway.max_batch) == (9100, 4)


def test_environment_takes_lists_as_json() -> None:
    rule = {"tensor": "bytes", "action": "zero", "columns": [0, 1]}

    with environment(EVERSTILL_CAPTURE__REDACT=json.dumps([rule])):
        settings = load(None, EverstillSettings)

    assert settings.capture.redact[0].columns == (0, 1)


def test_variables_of_the_project_that_are_no_settings_are_left_alone() -> None:
    with environment(EVERSTILL_DATA="/somewhere"):
        assert load(None, EverstillSettings).gateway.port == 8001


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[gateway]\nprot = 1\n", "unknown key gateway.prot, did you mean port?"),
        ("[gatway]\nport = 1\n", "unknown key gatway, did you mean gateway?"),
        ("[model]\ninputs = [{name = 'a', datatype = 'FP32', shap = [1], shape = [1]}]\n", "did you mean shape?"),
        ("[log]\nzzz = 1\n", "unknown key log.zzz; known here: format, level"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(tmp_path: pathlib.Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, text), EverstillSettings)

    assert sentence in str(caught.value)


def test_an_unknown_key_in_the_environment_is_an_error_too() -> None:
    with environment(EVERSTILL_GATEWAY__PROT="1"), pytest.raises(ConfigurationError, match="did you mean port"):
        load(None, EverstillSettings)


def test_all_mistakes_are_named_at_once(tmp_path: pathlib.Path) -> None:
    text = '[gateway]\nport = 70000\nmax_batch = "many"\n[capture]\nrate = 2\nsed = "x"\n[gate]\nalpha = 0\n'

    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, text), EverstillSettings)

    for place in ("gateway.port", "gateway.max_batch", "capture.rate", "capture.sed", "gate.alpha"):
        assert place in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[gateway", "port = = 1", "\x00"])
def test_a_file_that_is_not_toml_is_told_with_its_place(tmp_path: pathlib.Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"everstill\.toml is not TOML"):
        load(write(tmp_path, text), EverstillSettings)


def test_a_missing_file_is_one_sentence(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*: No such file or directory"):
        load(tmp_path / "none.toml", EverstillSettings)


def test_a_room_ignores_the_sections_of_other_rooms(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "[gate]\nalpha = 0.05\n[gateway]\nport = 9000\n")

    assert load(path, ServingSettings).gateway.port == 9000


def test_the_seed_is_not_printed(tmp_path: pathlib.Path) -> None:
    settings = load(write(tmp_path, "[capture]\nseed = 'swordfish'\n"), EverstillSettings)

    assert settings.capture.seed.get_secret_value() == "swordfish"
    assert "swordfish" not in f"{settings!r}{settings}{settings.model_dump_json()}"


def test_settings_do_not_change_after_loading() -> None:
    settings = load(None, EverstillSettings)

    with pytest.raises(ValueError, match="frozen"):
        settings.gateway.port = 1
