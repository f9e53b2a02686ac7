"""Which messages a version has learned from: what was read, without gaps, of streams that were replaced too."""

import pathlib

import pytest

from distill_loop.config import ReleaseSection
from distill_loop.release.office import ReleaseOffice
from distill_loop.release.sources import sources
from registry.fetching import Policy
from registry.sections import ModelSection
from registry.store import open_store


@pytest.fixture
def office(tmp_path: pathlib.Path) -> ReleaseOffice:
    return ReleaseOffice(
        open_store("memory://"),
        ModelSection(),
        ReleaseSection(),
        cache=tmp_path,
        policy=Policy(),
        epoch=1,
        actor="a test",
        text_bytes=64,
    )


def test_gaps_are_left_out_and_each_stream_has_its_own(office: ReleaseOffice) -> None:
    office.report_gap("pairs", 0, 5, 8, None, "old")
    office.report_gap("pairs", 0, 0, 3, None, "old")
    office.report_gap("labels", 0, 1, 2, None, "old")
    office.report_replaced("pairs", 0, 20, "old", "new", None)
    office.report_gap("pairs", 1, 90, 99, None, "new")

    found = sources(office.ledger.lines(), "pairs", {0: 7, 1: 40, 2: 0}, "new")

    assert [(one.stream, one.partition, one.first, one.end) for one in found] == [
        ("old", 0, 3, 5),
        ("old", 0, 8, 20),
        ("new", 0, 0, 7),
        ("new", 1, 0, 40),
    ]
    assert office.learned_from("labels", {0: 4}, "old")[0].end == 1


def test_a_stream_that_was_cut_off_goes_on_where_it_is_read_on_and_another_at_its_start(office: ReleaseOffice) -> None:
    office.report_replaced("pairs", 0, 40, "old", "old", None, 30, 25)
    office.report_replaced("pairs", 0, 50, "old", "old", None, 45, 42)
    office.report_replaced("pairs", 0, 60, "old", "new", None)
    office.report_replaced("pairs", 1, 9, "new", "new", None, 4, 3)

    found = office.learned_from("pairs", {0: 7, 1: 3, 2: 5}, "new")

    assert [(one.stream, one.partition, one.first, one.end) for one in found] == [
        ("old", 0, 0, 40),
        ("old", 0, 25, 50),
        ("old", 0, 42, 60),
        ("new", 1, 0, 9),
        ("new", 0, 0, 7),
        ("new", 2, 0, 5),
    ]
