"""Placing: where what a step made finds its place - the stream, or a spool - and the journal that makes each step happen once.

A step is committed before it is placed: what follows from it (counts, cursors of rings and spools) together with what is in flight. Then it is placed, the outcome
is committed, and only then do the rings' read positions move. A mirror that is killed in between is followed by one that places the same
again: the stream may get a message twice, nothing is counted twice, and the teacher isn't asked again. At any moment what is in memory, in the spools and
in the accounts belongs together, so that a commit is right wherever it is made.

While messages wait in the spool, new ones queue up behind them, so that order is kept. What finds no place at all stays in flight and is
tried again before anything new is read. One thread.
"""

import contextlib
from collections.abc import Callable, Sequence

import structlog
from google.protobuf.message import DecodeError

from protos import records_pb2 as records
from protos.errors import FormatError, UnavailableError
from registry.at_rest import KeyMissing
from serving.shadow.accounts import Accounts, Rows
from serving.shadow.journal import Journal
from serving.shadow.message import Message, Publisher
from serving.shadow.pairs import pair_of
from serving.shadow.rings import Rings
from serving.shadow.rows import Row
from serving.shadow.spool import Spool
from serving.shadow.strata import SERVED
from serving.telemetry import RING_BYTES, SPOOL_BYTES

TEACHER, STREAM = "teacher", "stream"
#: What is taken out of a spool in one go.
LOT_RECORDS, LOT_BYTES = 256, 2 * 2**20


class Placing:
    """Places what the steps of one model make.

    Args:
        open_spool: opens the spool of a name where the accounts left it, or takes up what lies there (None).
    """

    def __init__(
        self,
        model: str,
        rings: Rings,
        journal: Journal,
        publisher: Publisher,
        open_spool: Callable[[str, Sequence[int] | None], Spool],
        *,
        max_message_bytes: int = 2**62,
    ) -> None:
        self.accounts = Accounts(model, journal.state)
        self.stream_away = False
        self._model = model
        self._rings = rings
        self._journal = journal
        self._publisher = publisher
        self._max_message_bytes = max_message_bytes
        self._spools = {name: open_spool(name, self.accounts.spools.get(name)) for name in (TEACHER, STREAM)}
        self._rows_of = {TEACHER: _rows_of_pairs, STREAM: _rows_of_messages}
        self._messages = journal.messages
        self._pairs = journal.pairs
        self._settled = not (self._messages or self._pairs)
        self._durable = False
        self._log = structlog.get_logger(model=model)
        for number, ring in rings:
            self.accounts.follow(number, ring)
        for name, spool in self._spools.items():
            if name not in self.accounts.spools:
                self._inherit(name, spool)
        if self._settled:  # the last process may have been killed between its commit and this
            rings.advance()

    @property
    def in_flight(self) -> Rows:
        """Rows that have left rings and spools and found no place yet, by stratum."""
        return _rows_of_messages(self._messages) + _rows_of_pairs(self._pairs)

    @property
    def is_blocked(self) -> bool:
        """Whether something found no place."""
        return not self._settled

    @property
    def holds_messages(self) -> bool:
        """Whether messages found no place."""
        return bool(self._messages)

    @property
    def waiting_bytes(self) -> dict[str, int]:
        """Bytes in each spool."""
        return {name: spool.num_bytes for name, spool in self._spools.items()}

    def settle(self) -> bool:
        """Place what an earlier step, or an earlier process, could not; False where there is still no place."""
        return self._settled or self._place()

    def place(self, messages: list[Message], unanswered: Sequence[Row] = ()) -> bool:
        """Place what a step made, the rings' frames that it read included; False where something found no place, and stays in flight."""
        self._messages = self._messages + messages
        self._pairs = self._pairs + [pair_of(row).SerializeToString() for row in unanswered]
        self._settled = False
        return self._place()

    def peek_pairs(self, num: int) -> list[records.LogitPair]:
        """Return the oldest pairs that wait for the teacher.

        Raises:
            UnavailableError: the spool can't be read now.
        """
        spool = self._spools[TEACHER]
        payloads = [] if spool.is_empty else self._peek(spool, num)
        if spool.is_empty:
            self.accounts.emptied(TEACHER)
        return [_pair(payload) for payload in payloads]

    def take_pairs(self, pairs: Sequence[records.LogitPair]) -> None:
        """Take what `peek_pairs` returned; `place` what became of it next."""
        self._take(TEACHER, Rows(pair.stratum or SERVED for pair in pairs))

    def drain_messages(self) -> int:
        """Publish one lot of messages that wait for the stream; returns how many moved on.

        Raises:
            UnavailableError: the spool can't be read now.
        """
        spool = self._spools[STREAM]
        if spool.is_empty:
            return 0
        messages = [Message.from_spool(payload) for payload in self._peek(spool, LOT_RECORDS)]
        if rest := self._publish(messages):
            # Only what comes before the first that wasn't taken leaves the queue: behind it order comes before a repeat.
            messages = messages[: next(place for place, one in enumerate(messages) if one is rest[0])]
            if not messages:
                return 0
            self._peek(spool, len(messages))
        if messages:
            self._take(STREAM, _rows_of_messages(messages))
            self._count(messages)
        if spool.is_empty:
            self.accounts.emptied(STREAM)
        self._commit()
        return len(messages)

    def publish_reports(self, reports: list[Message]) -> None:
        """Publish reports where the stream takes them; one that is lost is replaced by the next, which says all that it said."""
        if (not self.stream_away or self._spools[STREAM].is_empty) and not self._publish(reports):
            self.accounts.breaker_open.taken()

    def expire(self) -> None:
        """Drop and count what has waited too long."""
        for name, spool in self._spools.items():
            with contextlib.suppress(UnavailableError, FormatError):
                while (payloads := spool.peek_too_old()) is not None:
                    self._drop(name, payloads, "too_old")

    def _place(self) -> bool:
        try:
            if self._messages or self._pairs:
                self._commit_in_flight()
            if self._messages and self._spools[STREAM].is_empty:
                rest = self._publish(self._messages)
                self._count(_without(self._messages, rest))
                self._messages = rest
            if self._messages:
                self._append(STREAM, [message.to_spool() for message in self._messages])
                self._messages = []
            if self._pairs:  # last: on a full disk what the teacher did answer goes on all the same
                self._spools[TEACHER].clear()  # what was taken makes room
                self._append(TEACHER, self._pairs)
                self._pairs = []
            self._commit()
        except UnavailableError as error:
            self._log.error("samples find no place and wait", error=str(error), messages=len(self._messages))
            return False
        self._settled = True
        self._rings.advance()
        RING_BYTES.labels(self._model).set(self._rings.pending_bytes)
        return True

    def _publish(self, messages: list[Message]) -> list[Message]:
        """Publish messages, but those that are larger than the stream takes; returns those that it didn't accept."""
        rest: list[Message] = []
        sent = [message for message in messages if len(message.value) <= self._max_message_bytes]
        try:
            self._publisher.publish(sent)
        except UnavailableError as error:
            rest = getattr(error, "rest", sent)
            if not self.stream_away:  # once: many steps a second find it so
                self._log.warning("the stream is away, messages are spooled", error=str(error), messages=len(rest))
            self.stream_away = True
        else:
            if self.stream_away:
                self._log.info("the stream is back")
            self.stream_away = False
        self.accounts.accept(_without(sent, rest))
        return rest

    def _count(self, messages: list[Message]) -> None:
        """Count what has become of the rows of messages that are gone."""
        for message in messages:
            if len(message.value) <= self._max_message_bytes:
                self.accounts.publish(Rows(dict(message.rows)))
            else:
                self.accounts.drop("oversized", Rows(dict(message.rows)))
                self._log.error("a message is larger than the stream takes", num_bytes=len(message.value))

    def _append(self, name: str, payloads: list[bytes]) -> None:
        """Keep payloads in a spool, dropping the oldest segments where the bound asks for it."""
        spool = self._spools[name]
        while not spool.has_room(payloads):
            self._drop(name, spool.peek_segment(), "spool_full")
        spool.append(payloads)
        self._durable = True
        self.accounts.keep(name, self._rows_of[name](payloads))

    def _drop(self, name: str, payloads: list[bytes], reason: str) -> None:
        rows = self._rows_of[name](payloads)
        self._take(name, rows)
        self.accounts.drop(reason, rows)
        if self._spools[name].is_empty:
            self.accounts.emptied(name)
        self._commit_in_flight()
        self._spools[name].clear()

    def _take(self, name: str, rows: Rows) -> None:
        self._spools[name].take()
        self._durable = True
        self.accounts.release(name, rows)

    def _peek(self, spool: Spool, num: int) -> list[bytes]:
        try:
            return spool.peek(num, LOT_BYTES)
        except FormatError as error:
            raise UnavailableError(error.message, fix=error.fix) from None

    def _commit_in_flight(self) -> None:
        self.accounts.spools = {name: list(spool.position) for name, spool in self._spools.items()}
        self._journal.commit(self.accounts.to_json(), self._messages, self._pairs, durable=self._durable)
        self._durable = False
        SPOOL_BYTES.labels(self._model).set(sum(self.waiting_bytes.values()))

    def _commit(self) -> None:
        """Commit, and let go of what is taken."""
        self._commit_in_flight()
        for spool in self._spools.values():
            spool.clear()

    def _inherit(self, name: str, spool: Spool) -> None:
        """Count what lies in a spool that no journal knows; what can't be read now is counted when it leaves."""
        position = spool.position
        try:
            while payloads := spool.peek(LOT_RECORDS, LOT_BYTES):
                self.accounts.inherit(name, self._rows_of[name](payloads))
                spool.take()
        except KeyMissing as error:
            self._log.error(
                "a spool holds what can't be read, and waits", spool=name, error=error.message, fix=error.fix
            )
        spool.go_back_to(position)


def _without(messages: Sequence[Message], rest: Sequence[Message]) -> list[Message]:
    others = set(map(id, rest))
    return [message for message in messages if id(message) not in others]


def _rows_of_messages(messages: Sequence[Message | bytes]) -> Rows:
    rows = Rows()
    for one in messages:
        message = one if isinstance(one, Message) else Message.from_spool(one)
        rows.update(dict(message.rows))
    return rows


def _rows_of_pairs(payloads: Sequence[bytes]) -> Rows:
    return Rows(_pair(payload).stratum or SERVED for payload in payloads)


def _pair(payload: bytes) -> records.LogitPair:
    """Return a pair from the spool; one that can't be read is an empty one, which the teacher will refuse."""
    try:
        return records.LogitPair.FromString(payload)
    except DecodeError:
        return records.LogitPair(stratum=SERVED)
