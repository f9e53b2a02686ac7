"""The gateway's parent: which dead child is started again, and how often a refused version is tried again."""

import io
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from protos.errors import EverstillError
from registry.ledger import Kind, Ledger
from registry.pointers import Live, Pointers
from serving.config import GatewaySection, ServingSettings
from serving.supervision.child import (
    FORGIVEN_S,
    MAX_RESTART_S,
    MAX_RETRY_S,
    RESTART_S,
    RETRY_S,
    Child,
    Event,
    Place,
    listen,
)
from serving.supervisor import Supervisor

MODEL = "filetypes"
WISH: dict[str, Any] = {"desired": {}}
LINE = json.dumps(WISH) + "\n"


class Ended:
    """A process that has ended, or has not."""

    def __init__(self, code: int | None) -> None:
        self.pid = 0
        self.stdin = io.StringIO()
        self._code = code

    def poll(self) -> int | None:
        return self._code

    def kill(self) -> None:
        self._code = -9


@pytest.fixture
def supervisor(tmp_path: pathlib.Path) -> Iterator[Supervisor]:
    settings = ServingSettings(
        registry={"url": str(tmp_path / "registry")}, gateway=GatewaySection(port=0, metrics_port=0)
    )
    made = Supervisor({MODEL: settings}, None)
    yield made
    made._metrics_dir.rmdir()


def child_with(code: int | None, **options: Any) -> Child:
    return Child("mirror", process=Ended(code), **options)  # type: ignore[arg-type]


def test_a_child_that_runs_is_left_alone(supervisor: Supervisor) -> None:
    child = child_with(None)

    supervisor._keep_alive(child)

    assert child.deaths == 0


@pytest.mark.parametrize("code", [2, 3, 4])
def test_a_child_that_told_why_it_cannot_start_ends_the_gateway(supervisor: Supervisor, code: int) -> None:
    with pytest.raises(EverstillError, match=r"because\. Do that") as caught:
        supervisor._keep_alive(child_with(code, last_words={"message": "because", "fix": "Do that"}))

    assert caught.value.exit_code == code


@pytest.mark.parametrize(("code", "ever_started"), [(4, True), (1, False), (-9, False)])
def test_any_other_death_is_followed_by_another_start(supervisor: Supervisor, code: int, ever_started: bool) -> None:
    child = child_with(code, ever_started=ever_started, start_after=1e12)

    supervisor._keep_alive(child)

    assert child.deaths == 1
    assert child.process is None


def test_the_pause_between_deaths_doubles_up_to_a_bound(supervisor: Supervisor) -> None:
    child, pauses = Child("mirror"), []
    for _ in range(10):
        child.process, child.started_at = Ended(1), time.monotonic()  # type: ignore[assignment]
        supervisor._keep_alive(child)
        pauses.append(child.start_after - time.monotonic())

    assert pauses[:3] == pytest.approx([RESTART_S, 2 * RESTART_S, 4 * RESTART_S], abs=0.4)
    assert pauses[-1] == pytest.approx(MAX_RESTART_S, abs=1.0)


def test_a_child_that_lived_long_is_forgiven(supervisor: Supervisor) -> None:
    child = child_with(1, deaths=7, ever_started=True, started_at=time.monotonic() - FORGIVEN_S - 1)

    supervisor._keep_alive(child)

    assert child.deaths == 1


def test_a_refused_version_is_told_again_ever_more_rarely() -> None:
    child = child_with(None)
    child.tell(WISH)
    pauses = []

    for _ in range(8):
        child.refused()
        assert child.retry_at is not None
        pauses.append(child.retry_at)
        child.tell(WISH)  # not yet
    written = child.process.stdin  # type: ignore[union-attr]

    assert isinstance(written, io.StringIO)
    assert written.getvalue() == LINE
    assert pauses[0] - RETRY_S == pytest.approx(pauses[-1] - MAX_RETRY_S, abs=5)
    child.retry_at = 0.0
    child.tell(WISH)
    assert written.getvalue() == LINE * 2
    assert child.retry_at is None


def test_another_wish_is_told_at_once_and_forgets_refusals() -> None:
    child = child_with(None)
    child.tell({"a": 1})
    child.refused()
    child.tell({"a": 2})

    assert (child.refusals, child.retry_at, child.told) == (0, None, '{"a": 2}')


def test_what_a_child_prints_by_accident_is_not_worth_a_gateway() -> None:
    program = "print('hello'); print('[]'); print('{}'); print('{\"event\": \"started\"}')"
    heard: list[Event] = []
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        listen(Child("worker", process=process), process, lambda child, process, event: heard.append(event))

    assert heard == [{"event": "started"}, {}]


def test_what_a_dead_child_said_is_not_taken_for_its_successor(supervisor: Supervisor) -> None:
    child = child_with(None)
    supervisor._heard.put((child, "another process", {"event": "started"}))

    supervisor._hear(0.0)

    assert not child.started


def test_an_event_that_lacks_something_is_not_worth_a_gateway(supervisor: Supervisor) -> None:
    child = child_with(None)
    for event in ({"event": "serving"}, {"event": "refused", "model": "unknown", "digest": "d"}):
        supervisor._heard.put((child, child.process, event))

    supervisor._hear(0.0)

    assert supervisor._heard.empty()


def test_a_version_refused_again_for_the_same_reason_is_listed_once(supervisor: Supervisor) -> None:
    child = Child("worker", places={MODEL: Place()})
    for reason in ("torn", "torn", "full", "torn"):
        supervisor._note(child, {"event": "refused", "model": MODEL, "digest": "a" * 64, "reason": reason})

    assert [one["reason"] for one in supervisor._models[MODEL].refused] == ["torn", "full", "torn"]


def test_a_version_that_one_worker_can_serve_is_told_again_at_once_to_one_that_could_not(
    supervisor: Supervisor,
) -> None:
    refusing = child_with(None, places={MODEL: Place(given="d", refused="d")}, retry_at=1e12)
    supervisor._workers = [refusing, serving := child_with(None, places={MODEL: Place(given="d")})]

    supervisor._note(serving, {"event": "serving", "model": MODEL, "digest": "d"})

    assert refusing.retry_at is not None
    assert refusing.retry_at <= time.monotonic()


@pytest.mark.parametrize(
    ("other", "opens"),
    [
        ({"listening": True, "started": True}, False),
        ({"started": False}, False),
        ({"started": True, "places": {MODEL: Place(given="d")}}, False),
        ({"started": True, "places": {MODEL: Place(given="d", refused="d")}}, True),
    ],
)
def test_a_worker_that_cannot_load_opens_the_port_only_where_no_other_will(
    supervisor: Supervisor, other: dict[str, Any], opens: bool
) -> None:
    refusing = child_with(None, started=True, places={MODEL: Place(given="d", refused="d")})
    supervisor._workers = [refusing, child_with(None, **other)]

    assert supervisor._may_open(refusing) is opens


@pytest.mark.parametrize(("kind", "at_once"), [("rollback", True), ("pin", True), ("promote", False)])
def test_the_ledger_line_of_the_pointer_says_whether_all_workers_are_told_at_once(
    supervisor: Supervisor, kind: Kind, at_once: bool
) -> None:
    old, new = "a" * 64, "b" * 64
    pointers, ledger = Pointers(supervisor._store, MODEL), Ledger(supervisor._store, MODEL)
    first = Live(digest=old, ledger_line=1, epoch=1)
    lines: list[tuple[Kind, str]] = [("promote", old), (kind, new)]
    for number, (one, digest) in enumerate(lines, start=1):
        ledger.append(
            kind=one,
            trial_id=str(number),
            digest=digest,
            previous_digest=old,
            evidence={},
            rows_digest=None,
            actor="me",
        )
    pointers.move_live(first, None)
    supervisor._follow()

    pointers.move_live(Live(digest=new, ledger_line=2, epoch=1), first)
    supervisor._follow()

    assert supervisor._rollout.targets[MODEL].at_once is at_once


@pytest.mark.parametrize(
    ("refusals", "other", "goes"),
    [
        (2, Place(given="d", serving="d"), True),
        (1, Place(given="d", serving="d"), False),  # it may still have better luck
        (2, Place(given="d", refused="d"), False),  # nobody does better
    ],
)
def test_a_worker_that_listens_and_cannot_answer_goes_where_another_one_can(
    supervisor: Supervisor, refusals: int, other: Place, goes: bool
) -> None:
    refusing = child_with(
        None, listening=True, started=True, refusals=refusals, places={MODEL: Place(given="d", refused="d")}
    )
    supervisor._workers = [refusing, child_with(None, listening=True, started=True, places={MODEL: other})]

    supervisor._tell()

    assert ('"stop"' in refusing.told) is goes


def test_a_worker_that_hangs_while_it_loads_is_killed_and_the_roll_out_goes_on(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    supervisor._workers = [
        hanging := child_with(None, started=True, listening=True, places={MODEL: Place(given="d" * 64)}),
        child_with(None, started=True, listening=True, places={MODEL: Place(given="d" * 64, serving="d" * 64)}),
    ]
    supervisor._tell()
    now += supervisor._gateway.load_deadline_s - 1

    supervisor._tell()
    assert hanging.process is not None
    assert hanging.process.poll() is None
    now += 2
    supervisor._tell()

    assert hanging.process.poll() == -9
    assert "said nothing for 120 s" in supervisor._models[MODEL].refused[-1]["reason"]
    supervisor._keep_alive(hanging)
    assert (hanging.process, hanging.deaths, hanging.hangs(0.0)) == (None, 1, False)


def test_a_worker_that_is_heard_of_while_it_loads_does_not_hang(supervisor: Supervisor) -> None:
    worker = child_with(None, places={MODEL: Place(given="d"), "other": Place(given="d")})
    assert not worker.hangs(60.0)
    worker.quiet_since = 0.0

    supervisor._note(worker, {"event": "serving", "model": MODEL, "digest": "d"})

    assert not worker.hangs(60.0)


def test_a_worker_that_was_sent_away_did_not_die_and_is_told_nothing_more(supervisor: Supervisor) -> None:
    place = Place(given="d", refused="d")
    leaving = child_with(None, listening=True, started=True, refusals=2, start_after=1e12, places={MODEL: place})
    serving = child_with(None, listening=True, started=True, places={MODEL: Place(given="d", serving="d")})
    supervisor._workers = [leaving, serving]
    supervisor._tell()
    told = leaving.told

    supervisor._tell()

    assert (leaving.told, leaving.asked_to_stop) == (told, True)
    assert leaving.process is not None
    leaving.process.kill()
    before = time.monotonic()
    supervisor._keep_alive(leaving)
    assert (leaving.process, leaving.deaths) == (None, 0)
    assert leaving.start_after - before < 2 * RESTART_S
