"""The demo on text, tables and images: without data that can't be shipped one clear line; whole runs, with what they must show, are slow."""

import json
import os
import pathlib
from typing import Any

import pytest

from tests.support.everstill_command import run

#: By recipe: how far the online student ends above the frozen one at least, and teacher calls at most.
PROMISES = {"clinc150": (0.25, 0.11), "nsl_kdd": (0.15, 0.10), "digits": (0.15, 0.20)}


def test_without_its_data_a_recipe_says_in_one_line_where_it_comes_from(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVERSTILL_DATA", raising=False)

    ended = run(tmp_path, "demo", "--recipe", "clinc150")

    assert (ended.returncode, ended.stdout) == (4, "")
    *_, last = ended.stderr.splitlines()
    assert last.startswith(
        "everstill: the recipe clinc150 reads data that can't be shipped, and EVERSTILL_DATA is not set"
    )
    assert "github.com/clinc/oos-eval" in last


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PROMISES)
def test_a_whole_recipe_ends_above_the_frozen_student_within_its_teacher_calls(
    name: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    if name != "digits":
        shared: pathlib.Path = request.getfixturevalue("shared_data")
        if not (shared / name).is_dir():
            pytest.skip(f"needs ../shared/data/{name}")
        request.getfixturevalue("monkeypatch").setitem(os.environ, "EVERSTILL_DATA", str(shared))
    gain, most_calls = PROMISES[name]

    ended = run(tmp_path, "demo", "--recipe", name, "--json", timeout_s=580)

    assert ended.returncode == 0, ended.stderr
    report: dict[str, Any] = json.loads(ended.stdout)
    assert (report["recipe"], report["failed_requests"], report["samples_dropped"]) == (name, 0, 0)
    assert report["promotions"] >= 2
    assert report["agreement"]["end"]["estimate"] >= report["agreement"]["frozen_end"]["estimate"] + gain
    assert report["teacher_calls_ratio"] <= most_calls
