"""The books of a model's capture folder at rest: what its files say, read one by one, beside what its accounts say of it.

For tests of equation A: a mirror's report closes by how it is made; here each term is counted from the bytes that it speaks of.
"""

import dataclasses
import pathlib

from protos import records_pb2 as records
from registry.at_rest import AtRest
from serving.shadow.accounts import Accounts, Rows, stratum_of
from serving.shadow.journal import Journal
from serving.shadow.message import Message
from serving.shadow.reports import reports_of
from serving.shadow.rings import Rings
from serving.shadow.spool import Spool


@dataclasses.dataclass(frozen=True)
class Books:
    """Rows by stratum. in_ring and spooled were counted in the files; report is what the mirror says."""

    report: records.CaptureReport
    in_ring: Rows
    spooled: Rows
    in_flight: Rows

    def of(self, name: str) -> Rows:
        """Return one count of the report, by stratum."""
        return Rows({one.stratum: getattr(one, name) for one in self.report.strata if getattr(one, name)})


def read_books(folder: pathlib.Path, rings: Rings, model: str, keys: tuple[bytes, ...] = ()) -> Books:
    """Read the books of a folder that no mirror uses now."""
    at_rest = AtRest(*keys)
    journal = Journal(folder, at_rest)
    accounts = Accounts(model, journal.state)
    in_ring = Rows()
    for number, ring in rings:
        account = accounts.workers[number]
        ring.go_to(account.position, account.expected)
        in_ring.update(stratum_of(payload) for _, payload in ring.read(2**31))
    in_flight = Rows()
    for message in journal.messages:
        in_flight.update(dict(message.rows))
    in_flight.update(records.LogitPair.FromString(pair).stratum for pair in journal.pairs)
    spooled = Rows()
    for name in ("teacher", "stream"):
        position = accounts.spools.get(name)
        spool = Spool(folder / f"spool-{name}", max_bytes=2**40, retention_s=1e9, position=position, at_rest=at_rest)
        while payloads := spool.peek(1000):
            for payload in payloads:
                if name == "teacher":
                    spooled[records.LogitPair.FromString(payload).stratum] += 1
                else:
                    spooled.update(dict(Message.from_spool(payload).rows))
            spool.take()
    report = reports_of("gateway-1", rings, accounts, in_flight)[-1]
    journal.close()
    return Books(records.CaptureReport.FromString(report.value), in_ring, spooled, in_flight)
