"""Several models in one file: what is shared, what is a model's own, and what a mistake is told like."""

import pathlib

import pytest

from distill_loop.config import LoopSettings
from everstill.config import EverstillSettings
from protos.errors import ConfigurationError
from registry.config import load, load_models
from serving.config import ServingSettings
from tests.support.environment import environment

TWO = """
[gateway]
port = 9000
[teacher]
timeout_s = 1.5
[models.fraud.model]
num_classes = 2
labels = ["honest", "fraud"]
[models.fraud.teacher]
address = "127.0.0.1:9101"
[models.intents.learner]
hidden = 32
[models.intents.loop]
metrics_port = 8013
"""


def write(folder: pathlib.Path, text: str = TWO) -> pathlib.Path:
    path = folder / "everstill.toml"
    path.write_text(text)
    return path


def test_models_come_in_the_files_order_and_are_named_by_their_table(tmp_path: pathlib.Path) -> None:
    loaded = load_models(write(tmp_path), EverstillSettings)

    assert list(loaded) == ["fraud", "intents"]
    assert [one.model.name for one in loaded.values()] == ["fraud", "intents"]


def test_a_models_own_values_lie_over_the_shared_ones_key_by_key(tmp_path: pathlib.Path) -> None:
    fraud = load(write(tmp_path), ServingSettings, "fraud")

    assert (fraud.teacher.address, fraud.teacher.timeout_s) == ("127.0.0.1:9101", 1.5)
    assert (fraud.gateway.port, fraud.model.num_classes) == (9000, 2)


def test_one_models_values_are_not_the_others(tmp_path: pathlib.Path) -> None:
    fraud, intents = load_models(write(tmp_path), LoopSettings).values()

    assert (fraud.learner.hidden, intents.learner.hidden) == (256, 32)
    assert intents.loop.metrics_port == 8013
    assert intents.model.num_classes == 214


def test_the_environment_is_over_every_model(tmp_path: pathlib.Path) -> None:
    with environment(EVERSTILL_TEACHER__TIMEOUT_S="9"):
        loaded = load_models(write(tmp_path), ServingSettings)

    assert {one.teacher.timeout_s for one in loaded.values()} == {9.0}


def test_a_file_without_such_tables_describes_one_model(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, '[model]\nname = "only"\n')

    assert list(load_models(path, ServingSettings)) == ["only"]
    assert load(path, ServingSettings, "only").model.name == "only"


def test_which_of_several_models_must_be_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match=r"describes 2 models: fraud, intents. Name one of them with --model"):
        load(write(tmp_path), LoopSettings)


def test_an_unknown_model_is_told_with_the_nearest(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no model .fruad.\. Did you mean fraud\?"):
        load(write(tmp_path), LoopSettings, "fruad")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[models.a.teachr]\n", "unknown section models.a.teachr, did you mean teacher?"),
        ("[models.a.gateway]\nport = 1\n", "all models share it: write [gateway]"),
        ("[models.a.zzz]\nport = 1\n", "a model's own are: model, teacher"),
        ("[models.a.teacher]\nadress = 'x'\n", "model a: unknown key teacher.adress, did you mean address?"),
        ("[models.a.model]\nname = 'b'\n", "models.a.model.name is another name"),
        ("[models.'a b'.model]\n", "model a b: model.name"),
        ("[models]\n", "holds no table of a model"),
        ("models = 3\n", "holds no table of a model"),
        ("[models]\na = 3\n", "holds no table of a model"),
    ],
)
def test_a_mistake_names_the_model(tmp_path: pathlib.Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_models(write(tmp_path, text), EverstillSettings)

    assert sentence in str(caught.value)


def test_a_mistake_in_the_environment_blames_the_variable_and_not_the_file(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "[gateway]\nprot = 1\n")

    with environment(EVERSTILL_CAPTURE__RAT="1"), pytest.raises(ConfigurationError) as caught:
        load(path, EverstillSettings)

    assert "EVERSTILL_CAPTURE__RAT: unknown key capture.rat, did you mean rate?" in str(caught.value)
    assert f"{path}: unknown key gateway.prot" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("labels = ['a']\nnum_classes = 2\n", "has 1 labels for 2 classes"),
        ("inputs = [{name='a', datatype='FP32', shape=[4, 2]}]\n", "must begin with -1, the batch"),
        ("inputs = [{name='a', datatype='FP32', shape=[-1, 0]}]\n", "neither positive nor -1"),
        ("output = 'y'\nextra_outputs = [{name='y', datatype='FP32', shape=[-1]}]\n", "two of its outputs"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(tmp_path: pathlib.Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, f"[model]\n{text}"), EverstillSettings)

    assert sentence in str(caught.value)
