"""An outage is told when it begins, when its reason changes, and when it is over; not each second."""

from structlog.testing import capture_logs

from distill_loop.app import Outage


def test_an_outage_is_told_when_something_changes() -> None:
    with capture_logs() as lines:
        outage = Outage()
        outage.ended()
        for reason in ("the stream is away", "the stream is away", "the disk is full", "the disk is full"):
            outage.go_on(reason)
        assert outage.lasts
        outage.ended()
        outage.ended()

    assert [line.get("error", line["event"]) for line in lines] == [
        "the stream is away",
        "the disk is full",
        "what was away is back",
    ]
    assert not outage.lasts
