"""`everstill feedback` against a gateway's port: one record, JSON lines, and what is said where something is wrong."""

import io
import json
import pathlib
from collections.abc import Iterator

import pytest

from everstill.feedback import lines_of, said_by, send
from protos.errors import FormatError, UnavailableError
from protos.records import mint_record_id, row_record_id
from serving.rpc.client import InferenceClient
from tests.support.callers import Callers, FakeSession, callers
from tests.support.in_process import everstill

RECORD_ID = mint_record_id()


@pytest.fixture
def served() -> Iterator[Callers]:
    with callers(FakeSession()) as open_port:
        yield open_port


def told(served: Callers) -> list[tuple[bytes, str]]:
    return [(one.record_id, one.label) for one in served.room.told]


def test_one_record_is_told_from_the_command_line(served: Callers, tmp_path: pathlib.Path) -> None:
    where = ("--address", served.address, "--model", "two")

    done = everstill("feedback", RECORD_ID.hex(), "2", "--row", "1", *where, cwd=tmp_path)
    refused = everstill("feedback", RECORD_ID.hex(), "cat", "--json", *where, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, "1 sent, 0 refused\n")
    assert told(served) == [(row_record_id(RECORD_ID, 1), "2")]
    assert refused.returncode == 1
    assert "no class 'cat'. Send its number, 0 to 2" in json.loads(refused.stdout)["refused"][0]["error"]


def test_lines_are_told_and_those_that_are_wrong_are_named_and_passed_over(
    served: Callers, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = {"version": "v1", "record_id": RECORD_ID.hex(), "row": 2, "top": []}  # as everstill infer prints
    given = [json.dumps({**answered, "label": 1}), "", "no json", json.dumps({"record_id": "cafe", "label": "1"})]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(given)))

    done = everstill("feedback", "--address", served.address, "--model", "two", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (1, "1 sent, 2 refused\n")
    assert told(served) == [(row_record_id(RECORD_ID, 2), "1")]
    third, fourth = done.stderr.splitlines()
    assert third.startswith("everstill: line 3: not JSON")
    assert fourth.startswith("everstill: line 4: ")
    assert "2 bytes that no gateway has given" in fourth


def test_where_the_gateway_has_no_room_it_stops_and_says_how_far_it_came(served: Callers) -> None:
    lines = [json.dumps({"record_id": RECORD_ID.hex(), "label": "1"})] * 3

    def then_full() -> Iterator[str]:
        yield lines[0]
        served.room.full = True
        yield from lines[1:]

    with (
        InferenceClient(served.address) as client,
        pytest.raises(
            UnavailableError, match=r"no room.*; stopped at line 2, 1 were sent before\. Send it again later"
        ),
    ):
        send(client, "two", lines_of(then_full()))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1]", "record_id and label"),
        ('{"record_id": "ab"}', "record_id and label"),
        ('{"record_id": 7, "label": "a"}', "hex"),
        ('{"record_id": "ab", "label": 1.5}', "whole number"),
        ('{"record_id": "ab", "label": true}', "whole number"),
        ('{"record_id": "ab", "label": "a", "row": "0"}', "row"),
    ],
)
def test_a_line_that_says_nothing_is_told_what_it_lacks(line: str, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        said_by(line)


def test_a_record_id_without_a_label_is_a_mistake(tmp_path: pathlib.Path) -> None:
    done = everstill("feedback", RECORD_ID.hex(), cwd=tmp_path)

    assert (done.returncode, done.stderr) == (
        2,
        "everstill: a record id without a label. Give both, or neither and JSON lines on standard input\n",
    )
