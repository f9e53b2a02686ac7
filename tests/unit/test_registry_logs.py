"""Log lines: one JSON object each on standard error, with process, level and time, from every thread."""

import json
import threading
from collections.abc import Iterator

import pytest
import structlog

from registry.logs import configure
from registry.sections import LogSection


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_a_line_is_one_json_object_with_process_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure("gateway", LogSection())

    structlog.get_logger().info("version swapped in", version="abc", path=object)

    (line,) = lines_of(capsys)
    assert {key: line[key] for key in ("process", "level", "event", "version")} == {
        "process": "gateway",
        "level": "info",
        "event": "version swapped in",
        "version": "abc",
    }
    assert str(line["timestamp"]).endswith("Z")


def test_lines_of_other_threads_name_the_process_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure("mirror", LogSection())

    thread = threading.Thread(target=lambda: structlog.get_logger().warning("teacher is away"))
    thread.start()
    thread.join()

    assert [line["process"] for line in lines_of(capsys)] == ["mirror"]


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure("loop", LogSection(level="warning"))

    structlog.get_logger().info("step")
    structlog.get_logger().error("checkpoint failed")

    assert [line["event"] for line in lines_of(capsys)] == ["checkpoint failed"]


def test_an_error_keeps_its_traceback_on_its_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("loop", LogSection())

    try:
        raise ValueError("torn")
    except ValueError:
        structlog.get_logger().exception("restore failed")

    (line,) = lines_of(capsys)
    assert "ValueError: torn" in str(line["exception"])


def test_console_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure("gateway", LogSection(format="console"))

    structlog.get_logger().info("ready")

    text = capsys.readouterr().err
    assert "ready" in text
    assert "gateway" in text
    assert not text.startswith("{")
