"""Capture reports: what each worker counted, and what the mirror beside it has made of it. Denominators travel with the pairs.

Decides what a report says; each replaces the one before. Reads rings and accounts, changes nothing. The mirror's thread.
"""

import time

from protos import records_pb2 as records
from protos.topics import LABELS, REPORTS
from serving.shadow.accounts import (
    DROPPED_ROWS,
    INHERITED,
    MISSING_ROWS,
    PUBLISHED_ROWS,
    WAITING,
    Accounts,
    Rows,
    WorkerAccount,
)
from serving.shadow.message import Message
from serving.shadow.ring import Ring
from serving.shadow.rings import Rings
from serving.shadow.strata import STRATA


def reports_of(gateway: str, rings: Rings, accounts: Accounts, in_flight: Rows) -> list[Message]:
    """Return the report of each worker, then the mirror's. Rows seen, coins, teacher calls and labels are told by the workers' alone, so that
    they can be summed; the mirror's tells what became of all that its workers sampled."""
    reports = [_of_worker(gateway, number, ring, accounts.workers[number]) for number, ring in rings]
    reports.append(_of_mirror(gateway, rings, accounts, in_flight))
    return [Message(REPORTS, 0, report.SerializeToString()) for report in reports]


def _of_worker(gateway: str, number: int, ring: Ring, account: WorkerAccount) -> records.CaptureReport:
    counts, labels = ring.counts(), ring.labels
    pending, gaps = account.pending_and_gaps({name: one.handed for name, one in counts.items()})
    report = records.CaptureReport(
        gateway=gateway,
        worker=number,
        epoch=ring.counts_epoch,
        first_sequence=ring.counted_from,
        last_sequence=ring.next_sequence,
        teacher_calls=ring.teacher_rows,
        gaps=sum(num for name, num in gaps.items() if name != LABELS),
        labels=labels,
        time_unix_ns=time.time_ns(),
    )
    for name, one in counts.items():
        stratum = report.strata.add(
            stratum=name,
            seen=one.seen,
            confidence_sum=one.confidence_sum,
            dropped=one.dropped,
            pending=pending[name],
            sampled=one.sampled,
            gaps=gaps[name],
        )
        for arm, taken in one.arms.items():
            stratum.arms.add(arm=arm, taken=taken)
    return report


def _of_mirror(gateway: str, rings: Rings, accounts: Accounts, in_flight: Rows) -> records.CaptureReport:
    fates = accounts.fates
    sampled, pending, gaps = Rows(fates[INHERITED]), Rows(in_flight), Rows()
    dropped, names = Rows(fates[DROPPED_ROWS]), dict.fromkeys(STRATA)
    for number, account in accounts.workers.items():
        ring = rings.by_worker.get(number)
        if ring is None:  # it was removed, empty: all that it held was taken
            left, lost = Rows(), Rows(account.gaps)
            sampled.update(account.taken + account.gaps)
        else:
            counts = ring.counts()
            handed = {**{name: one.handed for name, one in counts.items()}, LABELS: ring.labels}
            left, lost = account.pending_and_gaps(handed)
            sampled.update(account.sampled(handed))
            for name, one in counts.items():
                sampled[name] += one.dropped
                dropped[name] += one.dropped
        pending.update(left)
        gaps.update(lost)
    report = records.CaptureReport(
        gateway=gateway,
        mirror=True,
        epoch=accounts.epoch,
        gaps=sum(num for name, num in gaps.items() if name != LABELS),
        time_unix_ns=time.time_ns(),
    )
    spooled = fates[WAITING["teacher"]] + fates[WAITING["stream"]]
    for name in (name for name in {**names, **sampled} if name != LABELS):
        report.strata.add(
            stratum=name,
            sampled=sampled[name],
            published=fates[PUBLISHED_ROWS][name],
            missing=fates[MISSING_ROWS][name],
            spooled=spooled[name],
            dropped=dropped[name],
            pending=pending[name],
            gaps=gaps[name],
        )
    for start, end in accounts.breaker_open.to_json():
        report.breaker_open.add(start_unix_ns=start, end_unix_ns=end)
    for kind, num in sorted(accounts.messages.items()):
        report.topics.add(kind=kind, messages=num, records=accounts.records[kind])
    return report
