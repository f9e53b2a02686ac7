"""Dead letters: what can't be taken in goes to the dead topic, with its reason and its own bytes, and never stops the stream.

Decides how a letter looks (docs/formats.md) and that each is written once: letters wait in memory and are made safe in one go, before a
checkpoint moves past what they came from. A loop that is killed in between reads the same messages again; so at its first letter a writer looks at
what the topic's end holds, and writes none of it twice. Knows nothing of records. One thread.
"""

import collections
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping

import structlog

from distill_loop.stream.consumer import Consumer, Message
from distill_loop.stream.writer import Outgoing, Writer
from protos.topics import DEAD

#: Bytes of letters that wait; beyond, they are made safe before anything more is taken in.
MAX_WAITING_BYTES = 16 * 2**20
#: Letters at the topic's end that are known.
MAX_KNOWN = 20_000
#: Silence after which a reader takes the rest for gone: retention may have removed it. And the pause between two looks.
SILENT_S, POLL_S = 2.0, 0.01
#: Headers of a letter; those of its message follow, each with this before its name.
KIND, PARTITION, OFFSET, TIME, REASON, DETAIL, DIGEST, CUT_FROM = (
    "kind",
    "partition",
    "offset",
    "time_unix_ns",
    "reason",
    "detail",
    "digest",
    "cut_from",
)
ORIGINAL = "original."
MAX_DETAIL = 500


@dataclasses.dataclass(frozen=True)
class Letter:
    """A dead letter as it is read back. `number`: its offset in the dead topic; `cut_from`: bytes that it had, where it was too long to keep."""

    number: int
    source: Message
    reason: str
    detail: str
    digest: str
    cut_from: int | None

    @property
    def whole(self) -> bool:
        """Whether it is as it was, so that it can be sent again."""
        return self.cut_from is None

    @property
    def identity(self) -> tuple[str, ...]:
        """What two copies of one letter have in common."""
        return _identity(self.source.kind, self.source.partition, self.source.offset, self.digest)


class DeadLetters:
    """Writes the dead topic of one model.

    Args:
        known: returns the letters at the topic's end; asked once.
        max_bytes: a longer value is cut to this: the topic wouldn't take it.
    """

    def __init__(
        self, writer: Writer, known: Callable[[], Iterable[Letter]], *, max_bytes: int = MAX_WAITING_BYTES
    ) -> None:
        self._writer = writer
        self._ask_known = known
        self._max_bytes = max_bytes
        self._known: collections.OrderedDict[tuple[str, ...], None] | None = None
        self._waiting: list[Outgoing] = []
        self._waiting_bytes = 0

    def put(self, message: Message, reason: str, detail: str) -> None:
        """Keep a message's bytes and why it is dead, until `flush`."""
        headers = {
            KIND: message.kind,
            PARTITION: str(message.partition),
            OFFSET: str(message.offset),
            TIME: str(message.time_unix_ns),
            REASON: reason,
            DETAIL: detail[:MAX_DETAIL],
            DIGEST: hashlib.blake2b(message.value, digest_size=8).hexdigest(),
            **{ORIGINAL + name: value for name, value in message.headers.items() if isinstance(value, str)},
        }
        value = message.value
        if message.unreadable:
            headers[CUT_FROM] = "0"  # nothing of it can be kept
        if len(value) > self._max_bytes:
            headers[CUT_FROM] = str(len(value))
            value = value[: self._max_bytes]
        self._waiting.append(Outgoing(DEAD, 0, headers, value))
        self._waiting_bytes += len(value)

    def make_room(self) -> None:
        """Write what waits where it is much; raises as `flush`. Called before more is taken in."""
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Make every letter safe.

        Raises:
            UnavailableError: the stream takes nothing; they wait on.
        """
        if not self._waiting:
            return
        if self._known is None:
            self._known = collections.OrderedDict((letter.identity, None) for letter in self._ask_known())
        new = {_identity_of(one.headers): one for one in self._waiting}
        letters = [one for identity, one in new.items() if identity not in self._known]
        if letters:
            self._writer.write(letters)
            self._tell(letters)
        for identity in new:
            self._known[identity] = None
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        self._waiting.clear()
        self._waiting_bytes = 0

    def _tell(self, letters: list[Outgoing]) -> None:
        """Log what was written: one line, however many there are."""
        reasons = collections.Counter(one.headers[REASON] for one in letters)
        first = {name: letters[0].headers[name] for name in (KIND, PARTITION, OFFSET, DETAIL)}
        structlog.get_logger().error("dead letters", num=len(letters), reasons=dict(reasons), first=first)

    def close(self) -> None:
        """Let go of the stream; letters that wait are read again from the last checkpoint."""
        self._writer.close()


def read_letters(consumer: Consumer, newest: int | None = None) -> list[Letter]:
    """Return the letters that a consumer of the dead topic alone finds, oldest first, each once; raises UnavailableError.

    Args:
        newest: only about so many of the last ones.
    """
    waiting = consumer.lag()
    ((position, start),) = consumer.positions().items()
    end, silent_since = start + waiting, time.monotonic()
    if newest is not None and waiting > newest:
        consumer.seek({position: end - newest})
    letters: dict[tuple[str, ...], Letter] = {}
    while consumer.positions()[position] < end and time.monotonic() - silent_since < SILENT_S:
        messages = consumer.poll(1000)
        for message in messages:
            consumer.advance(message)
            letter = letter_of(message)
            letters.setdefault(letter.identity, letter)
        if messages:
            silent_since = time.monotonic()
        else:
            time.sleep(POLL_S)  # brokers were asked, and answer when they can
    return list(letters.values())


def letter_of(message: Message) -> Letter:
    """Return a message of the dead topic as a letter; what its headers don't say is empty, so that any message can be looked at."""
    headers = message.headers
    source = Message(
        headers.get(KIND, ""),
        _number(headers.get(PARTITION)),
        _number(headers.get(OFFSET)),
        {name.removeprefix(ORIGINAL): value for name, value in headers.items() if name.startswith(ORIGINAL)},
        message.value,
        _number(headers.get(TIME)),
    )
    cut_from = headers.get(CUT_FROM)
    return Letter(
        message.offset,
        source,
        headers.get(REASON, ""),
        headers.get(DETAIL, ""),
        headers.get(DIGEST, ""),
        _number(cut_from) if cut_from else None,
    )


def _identity_of(headers: Mapping[str, str]) -> tuple[str, ...]:
    return _identity(headers[KIND], headers[PARTITION], headers[OFFSET], headers[DIGEST])


def _identity(*parts: object) -> tuple[str, ...]:
    return tuple(map(str, parts))


def _number(text: object) -> int:
    try:
        return int(str(text))
    except ValueError:
        return 0
