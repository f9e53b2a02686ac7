"""The mirror's process: a thread for each model, and one that fails ends them all; a missing key holds up its own model only."""

import pathlib
import threading

import pytest

from registry.at_rest import AtRest
from registry.stopping import Stopping
from serving.config import ServingSettings
from serving.mirror_app import Threads, open_models
from serving.shadow.journal import Journal


class Mirrored:
    """A model's mirror that fails when the test says so."""

    def __init__(self) -> None:
        self.fails = threading.Event()
        self.ended = False

    def run(self, stopping: threading.Event) -> None:
        while not stopping.wait(0.01):
            if self.fails.is_set():
                raise RuntimeError("unforeseen")
        self.ended = True


@pytest.fixture
def mirrored() -> dict[str, Mirrored]:
    return {"a": Mirrored(), "b": Mirrored()}


def test_every_model_is_mirrored_until_the_word_to_stop(mirrored: dict[str, Mirrored]) -> None:
    stopping = Stopping()
    threading.Timer(0.05, stopping.tell).start()
    threads = Threads(mirrored, stopping)  # type: ignore[arg-type]

    threads.run()

    assert all(one.ended for one in mirrored.values())
    assert not threads.failed


def test_a_mirror_that_fails_ends_the_process_and_the_others_end_well(mirrored: dict[str, Mirrored]) -> None:
    mirrored["a"].fails.set()
    threads = Threads(mirrored, Stopping())  # type: ignore[arg-type]

    threads.run()

    assert threads.failed
    assert mirrored["b"].ended


def test_a_model_whose_key_is_missing_waits_and_the_others_are_mirrored(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {name: _settings(tmp_path, name) for name in ("a", "b")}
    Journal(tmp_path / "capture/a", AtRest(bytes(32))).commit({}, [], [b"secret"])

    mirrored = open_models(models)

    assert list(mirrored) == ["b"]
    said = capsys.readouterr()
    assert "previous_keys" in said.out + said.err


def _settings(folder: pathlib.Path, name: str) -> ServingSettings:
    return ServingSettings.model_validate(
        {
            "model": {"name": name},
            "capture": {"dir": folder / "capture"},
            "stream": {"path": folder / "stream.sqlite"},
            "registry": {"url": str(folder / "registry"), "cache": folder / "cache"},
        }
    )
