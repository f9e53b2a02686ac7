"""Recipes: each has settings that load, words for the story, and says in one line what it lacks."""

import pathlib

import pytest

from everstill import recipes
from everstill.config import EverstillSettings
from everstill.recipes.recipe import evenly, outside_data
from protos.errors import ConfigurationError, UnavailableError
from registry.config import load

VALUES = {"TEACHER": "127.0.0.1:1", "ONNX": "teacher.onnx", "SEED": 3, "SEED_TEXT": "three"}
OUTSIDE = ("clinc150", "nsl_kdd")


@pytest.mark.parametrize("name", recipes.NAMES)
def test_a_recipe_s_settings_load_and_its_learner_is_told_the_seed(name: str, tmp_path: pathlib.Path) -> None:
    recipe = recipes.find(name)
    (tmp_path / "everstill.toml").write_text(recipe.settings({**VALUES, "LABELS": []}))

    settings = load(tmp_path / "everstill.toml", EverstillSettings)

    assert recipe.name == settings.model.name == name
    assert settings.teacher.address == "127.0.0.1:1"
    assert settings.learner.seed == (0 if name == "filetypes" else 3)
    assert settings.gateway.pass_through


@pytest.mark.parametrize("name", OUTSIDE)
def test_data_that_cannot_be_shipped_is_asked_for_in_one_line_with_its_public_source(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes.find(name)
    monkeypatch.delenv("EVERSTILL_DATA", raising=False)

    with pytest.raises(UnavailableError) as unset:
        recipe.gather(order(tmp_path))
    monkeypatch.setenv("EVERSTILL_DATA", str(tmp_path))
    with pytest.raises(UnavailableError) as empty:
        recipe.gather(order(tmp_path))

    for said in (str(unset.value), str(empty.value)):
        assert "EVERSTILL_DATA" in said
        assert "github.com/" in said
        assert "\n" not in said
    assert unset.value.exit_code == 4


def order(folder: pathlib.Path) -> recipes.recipe.Order:
    return recipes.recipe.Order(300, 0.5, 0, folder)


def test_a_folder_that_lacks_one_file_is_told_which(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSTILL_DATA", str(tmp_path))
    (tmp_path / "some").mkdir()
    (tmp_path / "some/here").write_text("")

    with pytest.raises(UnavailableError, match="needs gone in"):
        outside_data("some", ("here", "gone"), "nowhere")

    assert outside_data("some", ("here",), "nowhere") == tmp_path / "some"


def test_an_unknown_recipe_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="filetypes, clinc150, nsl_kdd, digits"):
        recipes.find("cifar")


def test_a_recipe_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.PACKAGES, "clinc150", ("no_such_package",))

    with pytest.raises(UnavailableError, match="needs no_such_package"):
        recipes.find("clinc150")


def test_a_shorter_stream_is_spread_evenly_over_the_whole_one() -> None:
    assert evenly(10, 5) == [0, 2, 4, 6, 8]
    assert evenly(3, 9) == [0, 1, 2]
