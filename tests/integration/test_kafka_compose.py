"""compose.yaml's settings on a real broker of ours: it starts with them, makes no topic by itself, and everstill's topics fit it.

That the image is there and reads these variables is Apache's promise; containers don't run here.
"""

import pathlib
import re

import pytest

from distill_loop.stream import app
from tests.support.kafka import brokers

COMPOSE = pathlib.Path(__file__).parents[2] / "compose.yaml"


def settings_of(text: str) -> dict[str, str]:
    """Return what the image makes of the file's variables: KAFKA_A_B is a.b."""
    found = re.findall(r'^ +KAFKA_([A-Z_]+): "?([^"\n]+)"?$', text, re.MULTILINE)
    return {name.lower().replace("_", "."): value for name, value in found}


@pytest.mark.slow
def test_a_broker_with_the_settings_of_the_compose_file_fits(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(COMPOSE.read_text())
    own = {
        "log.dirs",
        "listeners",
        "advertised.listeners",
        "controller.quorum.voters",
    }  # of the test's folder and ports
    assert own < set(settings)
    extra = "".join(f"{name}={value}\n" for name, value in settings.items() if name not in own)
    with brokers(tmp_path, extra=extra) as cluster:
        config = tmp_path / "everstill.toml"
        config.write_text(f'[stream.kafka]\nbootstrap = "{cluster.bootstrap}"\n')

        assert app.main(["topics", "--create", "--config", str(config)]) == 0

    assert capsys.readouterr().out.count("created") == 5
    assert settings["auto.create.topics.enable"] == "false"
