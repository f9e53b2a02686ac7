"""`everstill up` without its processes: what is news, how it is shown, who is refused, and how a process's end is told."""

import io
import json
import os
import pathlib
import platform
import signal
from typing import Any

import pytest
from rich.console import Console

from everstill import rooms
from everstill.config import EverstillSettings
from everstill.doctor.check import fail, ok
from everstill.ledger.sentences import describe
from everstill.stack import Stack, last_line
from everstill.topology import work_folder
from everstill.up import command
from everstill.up.display import Display
from everstill.up.lock import only_one
from everstill.up.news import News, sentence
from everstill.up.service import Service, refuse_second
from protos.errors import ConfigurationError, ConflictError, UnavailableError
from registry.config import load_models
from registry.ledger import Ledger
from registry.pointers import Pointers, Trial
from registry.status import write_status
from registry.store import open_store
from tests.support.in_process import everstill, two_versions

STATE: dict[str, Any] = {
    "event": "state", "model": "m", "live": None, "passes_through": True, "agreement": None, "pairs": 12, "pairs_needed": 256,
    "lag": 0, "away": "", "rows": 0, "teacher_share": None, "trial": None, "last_cut": None,
}  # fmt: skip
AGREEMENT = {"estimate": 0.9, "low": 0.88, "high": 0.92, "num": 500}
TRIAL = {"version": "abc", "wins": 12, "losses": 3, "total": 240, "log_e": 1.2, "needed_log_e": 4.605}


@pytest.fixture
def models(tmp_path: pathlib.Path) -> dict[str, EverstillSettings]:
    two_versions(tmp_path)
    return load_models(tmp_path / "everstill.toml", EverstillSettings)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "the teacher answers; first version after 12 of 256 answers"),
        ({"passes_through": False}, "no version yet: 12 of 256 teacher answers"),
        ({"live": "v1", "agreement": AGREEMENT}, "version v1 serves; agreement 0.900 [0.880, 0.920]"),
        (
            {"live": "v1", "rows": 1000, "teacher_share": 0.12},
            "version v1 serves; 1,000 rows, teacher asked about 12.0%",
        ),
        (
            {"live": "v1", "away": "Kafka at k:1 doesn't answer"},
            "version v1 serves; the stream is away, what is sampled waits on disk: Kafka at k:1 doesn't answer",
        ),
        ({"live": "v1", "trial": {**TRIAL, "total": None}}, "version v1 serves; trial of abc begins"),
        ({"live": "v1", "trial": TRIAL}, "version v1 serves; trial of abc: 12 wins, 3 losses of 240, E 3.32 of 100"),
    ],
)
def test_a_state_is_one_line(changes: dict[str, Any], text: str) -> None:
    assert sentence({**STATE, **changes}) == text


def test_only_what_came_since_the_start_is_news(models: dict[str, EverstillSettings]) -> None:
    settings = models["filetypes"]
    store = open_store(settings.registry.url)
    news = News(models)
    (state,), before = news.look()
    live = Pointers(store, "filetypes").live()
    assert live is not None
    evidence = {"wins": 2, "losses": 9, "total": 50, "log_e": -1.0, "alpha": 0.01}

    Ledger(store, "filetypes").append(
        kind="reject", trial_id="t-9", digest="d" * 64, previous_digest=live.digest, evidence=evidence, actor="test"
    )
    Pointers(store, "filetypes").set_trial(
        Trial(trial_id="t-10", incumbent=live.digest, candidate="e" * 64, share=0.5, opened_unix_s=0.0),
        epoch=1,
    )
    refused = [{"version": "c" * 12, "reason": "wrong_digest", "time_unix_s": 0.0}]
    write_status(store, "filetypes", "gateway-1", {"process": "gateway", "refused": refused})
    _, events = news.look()

    assert (state["live"], before) == (live.digest[:12], [])
    assert [one["event"] for one in events] == ["decision", "trial", "refused"]
    assert events[0]["text"].startswith(
        f"{'d' * 12} rejected: 2 wins, 9 losses in 50 requests, E = 0.368 of 100 needed"
    )
    assert news.look()[1] == []


def test_what_a_loop_that_died_left_is_not_the_new_loop_s_state(models: dict[str, EverstillSettings]) -> None:
    store = open_store(models["filetypes"].registry.url)
    write_status(store, "filetypes", "loop", {"process": "loop", "away": "no broker answers", "lag": None})
    news = News(models)

    (before,), _ = news.look()
    write_status(store, "filetypes", "loop", {"process": "loop", "away": "", "lag": 3})
    (after,), _ = news.look()

    assert (before["away"], before["lag"]) == ("", None)
    assert (after["away"], after["lag"]) == ("", 3)


def shown(*, terminal: bool = False) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    return Display(console=Console(file=out, force_terminal=terminal, width=120, highlight=False)), out


def test_plain_lines_are_few_and_only_where_something_changed() -> None:
    display, out = shown()
    with display:
        for pairs in range(100):
            display.states([{**STATE, "pairs": pairs}])
        display.event("ready", "ready: every model is answered")

    assert out.getvalue().splitlines() == [
        "the teacher answers; first version after 0 of 256 answers",
        "ready: every model is answered",
    ]


def test_a_terminal_shows_the_newest_state_of_each_model() -> None:
    display, out = shown(terminal=True)
    with display:
        display.states([STATE, {**STATE, "model": "other", "live": "v7"}])

    assert "other" in out.getvalue()
    assert "version v7 serves" in out.getvalue()


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(as_json=True) as display:
        display.event("started", "gateway started", process="gateway", pid=7)
        display.states([STATE])

    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["event"], first["pid"]) == ("started", 7)
    assert (second["event"], second["pairs"]) == ("state", 12)


def test_a_second_service_of_one_configuration_is_refused(models: dict[str, EverstillSettings]) -> None:
    store = open_store(models["filetypes"].registry.url)
    write_status(store, "filetypes", "loop", {"process": "loop", "pid": 2**22 + 1})
    refuse_second(models)  # it died without a word
    write_status(store, "filetypes", "gateway-1", {"process": "gateway", "pid": os.getpid()})

    with pytest.raises(ConflictError, match=rf"a gateway .* runs already \(pid {os.getpid()}\)"):
        refuse_second(models)


def test_a_process_of_another_machine_is_not_taken_for_one_here(
    models: dict[str, EverstillSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(models["filetypes"].registry.url)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(platform, "node", lambda: "another")
        write_status(store, "filetypes", "gateway-1", {"process": "gateway", "pid": os.getpid()})

    refuse_second(models)  # its number is that of a process here


def test_a_second_up_is_refused_before_it_touches_anything(
    models: dict[str, EverstillSettings], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = models["filetypes"].stream.path.parent / "logs"
    with only_one(logs, "stream.path"):
        (logs / "gateway.log").write_text("the first's")
        monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # this process is the test's
        done = everstill("up", "--no-check", cwd=tmp_path)

        assert done.returncode == 5
        assert f"runs already (pid {os.getpid()})" in done.stderr
        assert sorted(path.name for path in logs.iterdir()) == ["gateway.log", "up.lock"]
    with only_one(logs, "stream.path"):
        pass


@pytest.mark.parametrize(
    ("evidence", "text"),
    [
        ({"source": "file", "file": "mine.onnx"}, f"first version {'d' * 12}, from mine.onnx"),
        ({"pairs": 256}, f"first version {'d' * 12}, from 256 teacher answers"),
    ],
)
def test_a_first_version_names_what_it_is_from(
    evidence: dict[str, Any], text: str, models: dict[str, EverstillSettings]
) -> None:
    ledger = Ledger(open_store(models["filetypes"].registry.url), "other")
    line = ledger.append(
        kind="bootstrap", trial_id="bootstrap", digest="d" * 64, previous_digest=None, evidence=evidence, actor="test"
    )

    assert describe(line) == text


def test_several_teachers_of_ours_need_ports_of_their_own(tmp_path: pathlib.Path) -> None:
    (tmp_path / "everstill.toml").write_text("[teacher_server]\nport = 0\n[models.a.model]\n[models.b.model]\n")
    models = load_models(tmp_path / "everstill.toml", EverstillSettings)

    with Stack(tmp_path) as stack, pytest.raises(ConfigurationError, match="Give each teacher a port"):
        Service(stack, tmp_path / "everstill.toml", models, lambda event, **facts: None).start()


class FakeService:
    """A gateway that dies at once."""

    address, metrics_address, complete = "127.0.0.1:1", "127.0.0.1:2", True

    def __init__(self, stack: Stack, *_: Any) -> None:
        self._stack = stack

    def start(self) -> None:
        root = str(pathlib.Path(__file__).parents[2])
        self._stack.start("gateway", ["tests.support.child", "dies"], {"PYTHONPATH": root})

    def listen(self) -> None:
        pass

    def ready(self) -> list[str]:
        return []


def test_a_process_that_ends_is_told_with_its_code_and_last_words(
    models: dict[str, EverstillSettings], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(command, "Service", FakeService)

    with (
        Display(as_json=True) as display,
        Stack(tmp_path) as stack,
        pytest.raises(UnavailableError, match="gateway ended with 4: everstill: port 1 is taken"),
    ):
        command._run(stack, None, models, display, False, None)

    ended = next(json.loads(line) for line in capsys.readouterr().out.splitlines() if '"ended"' in line)
    assert (ended["process"], ended["exit_code"]) == ("gateway", 4)
    assert ended["last_line"] == "everstill: port 1 is taken"


def test_checks_that_fail_start_nothing(models: dict[str, EverstillSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        command,
        "quick",
        lambda models, config, makes_topics: iter(
            [ok("a", "fine"), fail("port 8001", "taken", "Stop that", UnavailableError)]
        ),
    )

    with (
        Display(as_json=True) as display,
        pytest.raises(UnavailableError, match="nothing was started: port 8001: taken"),
    ):
        command._check(models, None, display)


def test_topics_that_differ_start_nothing_and_those_that_were_made_are_shown(
    models: dict[str, EverstillSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVERSTILL_STREAM__KAFKA__BOOTSTRAP", "127.0.0.1:9092")
    on_kafka = {"filetypes": EverstillSettings()}
    answer = {"problem": "", "fix": "Mend it", "created": ["everstill.filetypes.pairs"]}
    monkeypatch.setattr(rooms, "ask", lambda *arguments, answers_with: answer)

    with Display(as_json=True) as display:
        command._make_topics(models, None, display)  # the embedded stream has none
        command._make_topics(on_kafka, None, display)
        answer["problem"] = "topic x differs"
        with pytest.raises(ConfigurationError, match=r"nothing was started: topic x differs\. Mend it"):
            command._make_topics(on_kafka, None, display)

    (told,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (told["event"], told["created"]) == ("topics", ["everstill.filetypes.pairs"])


def test_logs_lie_beside_the_stream_or_beside_what_is_captured_where_that_is_kafka(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("EVERSTILL_STREAM__PATH", str(tmp_path / "streams/one.sqlite"))
    monkeypatch.setenv("EVERSTILL_CAPTURE__DIR", str(tmp_path / "captured/here"))
    beside_stream = work_folder(EverstillSettings())
    monkeypatch.setenv("EVERSTILL_STREAM__KAFKA__BOOTSTRAP", "127.0.0.1:9092")

    beside_capture = work_folder(EverstillSettings())

    assert beside_stream == (tmp_path / "streams", "stream.path")
    assert beside_capture == (tmp_path / "captured", "capture.dir")


def test_the_last_words_of_a_json_log_are_its_event_and_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "loop.log").write_text('{"event": "loop started"}\n{"event": "it failed", "error": "no room"}\n')

    assert last_line(tmp_path / "loop.log") == "it failed: no room"
