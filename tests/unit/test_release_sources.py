"""Which messages a version has learned from: what was read, without gaps, of streams that were replaced too."""

import pathlib

from distill_loop.config import ReleaseSection
from distill_loop.release.office import ReleaseOffice
from distill_loop.release.sources import sources
from registry.sections import ModelSection
from registry.store import open_store


def test_gaps_are_left_out_and_each_stream_has_its_own(tmp_path: pathlib.Path) -> None:
    office = ReleaseOffice(
        open_store("memory://"),
        ModelSection(),
        ReleaseSection(),
        cache=tmp_path,
        epoch=1,
        actor="a test",
        text_bytes=64,
    )
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
