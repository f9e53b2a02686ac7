"""Capture reports as the loop keeps them: of each source the newest, so that it knows what was seen, sampled, dropped and lost.

Decides what adds up: a report replaces the one before it of the same source and epoch; where a source begins again (a new epoch), what its last
epoch had counted is kept. A source is a worker, or the mirror beside it, of one gateway. Sources that are silent longest are summed up where there are very
many, and known again when they speak again. Knows no pairs. One thread; part of the checkpoint.
"""

from typing import Any, Literal

from distill_loop.stream.breakers import Breakers
from protos import records_pb2 as records
from protos.topics import KINDS

MAX_SOURCES = 1024
#: Sources that are summed up and whose last report is kept packed, so that one that speaks again isn't counted twice.
MAX_SILENT = 16_384
#: Counters of a stratum that a worker tells, and those that the mirror beside it tells of all its workers, which repeats some of theirs; pending and
#: spooled are what waits now, and end with their epoch.
OF_WORKERS, OF_MIRRORS = ("seen", "confidence_sum"), ("sampled", "published", "missing", "dropped")
COUNTERS = ("seen", *OF_MIRRORS)
WAITING = ("pending", "spooled")
#: A gateway without a report for this long, while others report, has fallen silent.
SILENT_NS = 60 * 10**9

Source = tuple[str, int, bool]


class Reports:
    """The newest capture reports of one model."""

    def __init__(self) -> None:
        self._newest: dict[Source, records.CaptureReport] = {}
        self._silent: dict[Source, bytes] = {}
        self._ended = records.CaptureReport()
        self.breakers = Breakers()

    def take(self, report: records.CaptureReport) -> None:
        """Take a report in; one of an older epoch, or older than what is known, says nothing new."""
        source = _source(report)
        self._wake(source)
        known = self._newest.get(source)
        if known is not None:
            if (report.epoch, report.time_unix_ns) < (known.epoch, known.time_unix_ns):
                return
            if report.epoch > known.epoch:
                _add(self._ended, known)
            del self._newest[source]  # the newest stands last
        self._newest[source] = report
        self.breakers.take(report)
        self._sum_up()

    def _wake(self, source: Source) -> None:
        """Take a source that was summed up out of the sum again."""
        if (packed := self._silent.pop(source, None)) is not None:
            known = self._newest[source] = records.CaptureReport.FromString(packed)
            _add(self._ended, known, -1)
            self._sum_up(source)

    def _sum_up(self, awake: Source | None = None) -> None:
        """Sum up the sources that are silent longest, but not the one that is about to speak."""
        while len(self._newest) > MAX_SOURCES:
            source = next(one for one in self._newest if one != awake)
            report = self._newest.pop(source)
            _add(self._ended, report)
            self._silent[source] = report.SerializeToString(deterministic=True)
            if len(self._silent) > MAX_SILENT:
                del self._silent[next(iter(self._silent))]

    def strata(self) -> dict[str, dict[str, Any]]:
        """Return what was counted of each stratum, by all sources together, in rows."""
        total = records.CaptureReport()
        total.CopyFrom(self._ended)
        strata = {}
        for report in self._newest.values():
            _add(total, report)
        for stratum in total.strata:
            counts = {name: getattr(stratum, name) for name in COUNTERS}
            arms = {arm.arm: arm.taken for arm in stratum.arms}
            strata[stratum.stratum] = {**counts, **dict.fromkeys(WAITING, 0), "arms": arms}
            if stratum.seen and stratum.confidence_sum:
                strata[stratum.stratum]["mean_confidence"] = stratum.confidence_sum / stratum.seen
        for report in self._newest.values():
            for stratum in report.strata if report.mirror else ():
                for name in WAITING:
                    strata[stratum.stratum][name] += getattr(stratum, name)
        return strata

    def accepted(self) -> dict[str, int]:
        """Return how many records the stream has taken, repeats included, by topic; a topic that no report speaks of is absent."""
        counts: dict[str, int] = {}
        for report in (self._ended, *self._newest.values()):
            for topic in report.topics:
                counts[topic.kind] = counts.get(topic.kind, 0) + topic.records
        return {kind: counts[kind] for kind in KINDS if kind in counts}

    @property
    def gaps(self) -> int:
        """Frames that were lost in rings."""
        return sum(report.gaps for report in (self._ended, *self._newest.values()) if not report.mirror)

    @property
    def teacher_away(self) -> bool:
        """Whether a gateway's breaker keeps calls from the teacher now. One that has fallen silent is not asked: nobody would ever say that it is over."""
        newest, away = self.newest_unix_ns, self.breakers.open_now
        return any(
            report.mirror and report.gateway in away and newest - report.time_unix_ns <= SILENT_NS
            for report in self._newest.values()
        )

    @property
    def newest_unix_ns(self) -> int:
        """When the newest report was written; 0 before the first, and where it doesn't say."""
        return max((report.time_unix_ns for report in self._newest.values()), default=0)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        newest = [report.SerializeToString(deterministic=True) for report in self._newest.values()]
        ended = self._ended.SerializeToString(deterministic=True)
        silent, breakers = list(self._silent.values()), self.breakers.state_dict()
        return {"newest": newest, "silent": silent, "ended": ended, "breakers": breakers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        self._newest = {_source(report): report for report in map(records.CaptureReport.FromString, state["newest"])}
        silent = state.get("silent", [])  # a version before forgot them
        self._silent = {_source(records.CaptureReport.FromString(data)): data for data in silent}
        self._ended = records.CaptureReport.FromString(state["ended"])
        if "breakers" in state:  # a version before passed over them
            self.breakers.load_state_dict(state["breakers"])


def _source(report: records.CaptureReport) -> Source:
    return report.gateway, report.worker, report.mirror


def _add(total: records.CaptureReport, report: records.CaptureReport, times: Literal[1, -1] = 1) -> None:
    """Add a report's counters to a total, or take them out of it."""
    total.gaps += times * report.gaps if not report.mirror else 0
    total.teacher_calls += times * report.teacher_calls
    total.labels += times * report.labels
    for topic in report.topics:
        mine = next((one for one in total.topics if one.kind == topic.kind), None) or total.topics.add(kind=topic.kind)
        mine.messages += times * topic.messages
        mine.records += times * topic.records
    for stratum in report.strata:
        ours = next((one for one in total.strata if one.stratum == stratum.stratum), None)
        ours = ours or total.strata.add(stratum=stratum.stratum)
        for name in OF_MIRRORS if report.mirror else OF_WORKERS:
            setattr(ours, name, getattr(ours, name) + times * getattr(stratum, name))
        for arm in stratum.arms:
            taken = next((one for one in ours.arms if one.arm == arm.arm), None) or ours.arms.add(arm=arm.arm)
            taken.taken += times * arm.taken
