"""What `status`, `versions` and `show` say: the trial's evidence, the teacher's share, several models."""

import contextlib
import http.server
import json
import os
import pathlib
import threading
from collections.abc import Iterator

import pytest

from registry.ledger import Ledger
from registry.pointers import Pointers, Trial
from registry.status import write_status
from registry.store import open_store
from tests.support.in_process import everstill, two_versions
from tests.support.students import publish_student


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A configuration and a registry with two versions, the second promoted over the first."""
    return two_versions(tmp_path)


def open_trial(folder: pathlib.Path, **loop: object) -> str:
    """Open a trial of a published candidate and let the loop tell its evidence; returns the candidate's version."""
    store = open_store(str(folder / "registry"))
    candidate = publish_student(store, winner=9)
    trial = Trial(trial_id="t-2", incumbent="a" * 64, candidate=candidate, share=0.25, opened_unix_s=0.0)
    Pointers(store, "filetypes").set_trial(trial, epoch=1)
    counters = {"wins": 12, "losses": 3, "pending": 2, "total": 240, "log_e": 1.2, "requests_needed": 1300}
    write_status(store, "filetypes", "loop", {"process": "loop", "trial": {"trial_id": "t-2", **counters}, **loop})
    return candidate[:12]


def test_status_tells_the_trial_s_evidence_and_what_it_needs(folder: pathlib.Path) -> None:
    version = open_trial(folder)

    text = everstill("status", cwd=folder).stdout

    assert f"on trial: {version}, on 25% of requests" in text
    assert "12 wins, 3 losses in 240 requests, 2 wait for the teacher: E = 3.32 of 100 needed" in text
    assert "about 1,060 more requests" in text  # 1,300 in all


def test_a_trial_that_nobody_works_on_is_said_to_wait(folder: pathlib.Path) -> None:
    open_trial(folder, stopped=True)

    text = everstill("status", cwd=folder).stdout

    assert "is open, and goes on when gateway and loop run again" in text
    assert "on trial:" not in text


def test_the_candidate_on_trial_can_be_shown(folder: pathlib.Path) -> None:
    version = open_trial(folder)

    done = everstill("show", version[:6], cwd=folder)

    assert done.returncode == 0
    assert f"version {version} (on trial)" in done.stdout


def test_status_says_why_nothing_improves_and_what_a_worker_takes(folder: pathlib.Path) -> None:
    store = open_store(str(folder / "registry"))
    cut = {"version": "d" * 12, "outcome": "refused", "reason": "latency 80 ms is over 50 ms"}
    workers = [{"worker": place, "pid": 1, "restarts": place} for place in (0, 1)]
    write_status(store, "filetypes", "loop", {"process": "loop", "last_cut": cut})
    body = {"process": "gateway", "workers": workers, "memory_per_added_worker_bytes": 42 * 2**20}
    write_status(store, "filetypes", "gateway-1", body)

    text = everstill("status", cwd=folder).stdout

    assert "newest candidate dddddddddddd refused: latency 80 ms is over 50 ms" in text
    assert "2 workers, 42 MiB for each one more, 1 restarts" in text


def test_status_and_versions_say_how_far_the_loop_is_and_what_it_never_saw(folder: pathlib.Path) -> None:
    store = open_store(str(folder / "registry"))
    accounts = {"accepted": 1234, "read": 1200, "open": 34, "unconfirmed": 2}
    body = {
        "process": "loop",
        "lag": 7,
        "oldest_waiting_s": 3.2,
        "staleness_s": 1500.0,
        "accounts": accounts,
        "breaker": {"open_s": 75.0, "open_now": ["gateway-1"]},
        "gaps": 5,
    }
    write_status(store, "filetypes", "loop", body)
    gap = {"topic": "pairs", "partition": 2, "first": 10, "end": 15, "messages": 5}
    replaced = {**gap, "first": 15, "end": None, "messages": None, "stream": "one", "replaced_by": "another"}
    live = Pointers(store, "filetypes").live()
    assert live is not None
    cut_off = {**replaced, "first": 40, "replaced_by": "one", "cut_off_at": 30, "read_from": 25}
    told = {"gap-pairs-2-10": gap, "replaced-pairs-2-15": replaced, "replaced-pairs-2-40": cut_off}
    for name, evidence in told.items():
        Ledger(store, "filetypes").append(
            kind="gap", trial_id=name, digest=live.digest, previous_digest=None, evidence=evidence, actor="a test"
        )

    text = everstill("status", cwd=folder).stdout
    versions = everstill("versions", cwd=folder).stdout

    assert "7 messages wait to be read, the oldest for 3 s" in text
    assert "the newest pair that the live version knows is 1,500 s old" in text
    assert (
        "the stream took 1,234 pairs, 1,200 were read, 34 are open, 2 were read that no mirror has reported yet" in text
    )
    assert "5 messages were removed by retention" in text
    assert "gap: pairs/2, offsets 10 to 14" in versions
    assert "gap: pairs/2, replaced at offset 15" in versions
    assert "gap: pairs/2, cut off at offset 30 of 40" in versions
    assert Pointers(store, "filetypes").live() == live


def test_while_the_stream_is_away_status_still_says_how_stale_it_is_and_what_is_spooled(folder: pathlib.Path) -> None:
    page = (
        'everstill_shadow_spool_bytes{model="filetypes"} 3145728.0\neverstill_shadow_spool_bytes{model="other"} 9e9\n'
    )
    with metrics_page(page) as address:
        store = open_store(str(folder / "registry"))
        write_status(store, "filetypes", "gateway-1", {"process": "gateway", "metrics_address": address})
        away = {"process": "loop", "away": "no broker answers", "lag": None, "staleness_s": 1500.0}
        write_status(store, "filetypes", "loop", away)

        text = everstill("status", cwd=folder).stdout
        body = json.loads(everstill("status", "--json", cwd=folder).stdout)

    assert "it waits for the stream: no broker answers" in text
    assert "  the newest pair that the live version knows is 1,500 s old" in text.splitlines()
    assert "the mirror's spools hold 3.0 MiB of at most" in text
    assert body["spooled"]["bytes"] == 3 * 2**20


SEVERAL = """
[registry]
url = "registry"
[models.filetypes.model]
[models.other.model]
num_classes = 3
"""


def test_several_models_are_shown_one_below_the_other_or_one_by_name(folder: pathlib.Path) -> None:
    (folder / "everstill.toml").write_text(SEVERAL)

    both = everstill("status", cwd=folder).stdout
    one = everstill("status", "--model", "other", cwd=folder).stdout
    bodies = json.loads(everstill("versions", "--json", cwd=folder).stdout)["models"]

    assert [line.split(":")[0] for line in both.splitlines() if line.startswith("model")] == [
        "model filetypes",
        "model other",
    ]
    assert one.splitlines()[0] == "model other: no version yet"
    assert {name: body["chain"] for name, body in bodies.items()} == {
        "filetypes": "2 lines, unbroken",
        "other": "0 lines, unbroken",
    }


def test_a_loop_of_one_of_several_models_is_told_which(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "everstill.toml").write_text(SEVERAL)
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: became.append(arguments))

    everstill("loop", "--model", "other", cwd=folder)
    unknown = everstill("loop", "--model", "othr", cwd=folder)

    assert became[0][2:] == ["distill_loop.app", "--config", "everstill.toml", "--model", "other"]
    assert len(became) == 1
    assert "Did you mean other?" in unknown.stderr


def test_the_teacher_s_share_is_read_from_the_running_gateway(folder: pathlib.Path) -> None:
    page = (
        'everstill_gateway_rows_total{model="filetypes",version="v1"} 80.0\n'
        'everstill_gateway_rows_total{model="filetypes",version="v2"} 20.0\n'
        'everstill_gateway_rows_total{model="other",version="v1"} 900.0\n'
        'everstill_shadow_teacher_rows_total{model="filetypes"} 12.0\n'
    )
    with metrics_page(page) as address:
        store = open_store(str(folder / "registry"))
        write_status(store, "filetypes", "gateway-1", {"process": "gateway", "metrics_address": address})

        text = everstill("status", cwd=folder).stdout

    assert "100 rows answered, teacher asked about 12, 12.0%" in text


def test_a_teacher_asked_more_often_than_rows_came_is_seen(folder: pathlib.Path) -> None:
    page = (
        'everstill_gateway_rows_total{model="filetypes",version="v1"} 80.0\n'
        'everstill_shadow_teacher_rows_total{model="filetypes"} 100.0\n'
    )
    with metrics_page(page) as address:
        store = open_store(str(folder / "registry"))
        write_status(store, "filetypes", "gateway-1", {"process": "gateway", "metrics_address": address})

        body = json.loads(everstill("status", "--json", cwd=folder).stdout)

    assert body["traffic"] == {"rows": 80, "asked": 100, "teacher_share": 1.25}


@contextlib.contextmanager
def metrics_page(text: str) -> Iterator[str]:
    """Serve one page and return its address."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
