"""`everstill demo` as a newcomer runs it, but shorter; the whole one, with what it must show, is slow."""

import json
import math
import pathlib
from typing import Any

import pytest

from everstill.config import EverstillSettings
from registry.config import load
from tests.support.everstill_command import run

FOLDER = "everstill-demo"


def read_report(text: str) -> dict[str, Any]:
    """Return a report, having refused what isn't JSON (NaN, Infinity)."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    report: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return report


@pytest.mark.timeout(240)
def test_a_short_demo_ends_by_itself_and_its_report_adds_up(tmp_path: pathlib.Path) -> None:
    ended = run(tmp_path, "demo", "--json", "--requests", "600", "--requests-per-s", "60", timeout_s=220)

    assert ended.returncode == 0, ended.stderr
    report = read_report(ended.stdout)
    assert (report["requests"], report["failed_requests"]) == (600, 0)
    assert report["drift_at_request"] == 300
    assert report["versions"][0]["kind"] == "bootstrap"
    assert report["swap"]["failed_requests"] == 0
    assert report["samples_dropped"] == 0
    # Every row that the teacher was asked for became a pair that the loop read, or was a retry.
    assert report["pairs"]["read"] <= report["teacher_calls"] < 600
    for one in report["versions"]:
        if one["kind"] == "promote":
            assert one["evidence"]["log_e"] >= -math.log(one["evidence"]["alpha"])
    assert report["agreement"]["start"]["low"] > 0.3
    folder = tmp_path / FOLDER
    assert read_report((folder / "summary.json").read_text()) == report
    assert (folder / "agreement.png").stat().st_size > 10_000
    assert "only to score" in ended.stderr
    assert not (folder / ".demo.lock").exists()

    settings = load(folder / "everstill.toml", EverstillSettings)
    assert settings.registry.url == str(folder / "registry")
    listed = run(tmp_path, "versions", "--json", "--config", f"{FOLDER}/everstill.toml")
    assert [line["kind"] for line in json.loads(listed.stdout)["lines"]] == [one["kind"] for one in report["decisions"]]
    shown = run(tmp_path, "show", report["versions"][0]["version"], "--config", f"{FOLDER}/everstill.toml")
    assert "first version" in shown.stdout
    state = run(tmp_path, "status", "--config", f"{FOLDER}/everstill.toml")
    assert state.stdout.count("stopped") == 2


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize("stream", ["embedded", "kafka"])
def test_the_whole_demo_shows_what_it_promises(
    stream: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    through = ["--kafka", request.getfixturevalue("kafka_bootstrap")] if stream == "kafka" else []

    ended = run(tmp_path, "demo", "--json", *through, timeout_s=400)

    assert ended.returncode == 0, ended.stderr
    report = read_report(ended.stdout)
    assert report["stream"]["kind"] == stream
    assert report["wall_s"] < 300
    assert report["failed_requests"] == 0
    assert report["promotions"] >= 3
    assert report["agreement"]["end"]["estimate"] >= report["agreement"]["frozen_end"]["estimate"] + 0.15
    assert report["teacher_calls_ratio"] <= 0.25
    assert report["requests"] >= 3000
