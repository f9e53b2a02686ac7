"""Dead letters: what can't be taken in goes to the dead topic, with its reason and its own bytes, and never stops the stream.

Decides how a letter looks (docs/formats.md) and that each is written once: letters wait in memory and are made safe in one go, before a
checkpoint moves past what they came from. A loop that is killed in between reads the same messages again; so at its first letter a writer looks at
what the topic's end holds, and writes none of it twice. A letter that the topic doesn't take whole is cut, and says so; now and then a whole one is tried again, since
an operator may have raised the topic's limit. Knows nothing of records. One thread.
"""

import collections
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import structlog

from distill_loop.stream.consumer import Consumer, Message
from distill_loop.stream.writer import NotWritten, Outgoing, Writer
from protos.errors import ConfigurationError
from protos.topics import DEAD
from registry.kafka_options import away

#: Bytes of letters that wait; beyond, they are made safe before anything more is taken in.
MAX_WAITING_BYTES = 16 * 2**20
#: Bytes of a message's own headers that its letter has room for, and bytes that a stream puts around a letter and each of its headers.
MAX_HEADER_BYTES = 32 * 2**10
FRAMING_BYTES, HEADER_FRAMING_BYTES = 256, 10
#: Letters at the topic's end that are known.
MAX_KNOWN = 20_000
#: Letters are told of in the log no more often than this.
TELL_S = 5.0
#: A topic that took no letter so large is tried anew after this.
TRY_AGAIN_S = 600.0
#: Silence after which a reader takes the rest for gone: retention may have removed it. And the pause between two looks.
SILENT_S, POLL_S = 2.0, 0.01
#: Headers of a letter; those of its message follow, each with this before its name.
KIND, PARTITION, OFFSET, TIME, REASON, DETAIL, DIGEST, CUT_FROM, CUT_HEADERS = (
    "kind",
    "partition",
    "offset",
    "time_unix_ns",
    "reason",
    "detail",
    "digest",
    "cut_from",
    "cut_headers",
)
ORIGINAL = "original."
MAX_DETAIL = 500
#: Every reason that this version gives; a letter of another version may have one of its own. First those of whole messages.
REASONS = (
    "undecodable",
    "undecodable_batch",
    "oversized",
    "wrong_schema",
    "wrong_model",
    "no_teacher",
    "wrong_kind",
    "non_finite",
    "not_probabilities",
    "wrong_shape",
    "wrong_datatype",
    "wrong_bytes",
    "wrong_inputs",
    "bad_identity",
    "bad_probability",
    "student_raises",
)
#: What two copies of one letter have in common.
Identity = tuple[str, str, str, str]


@dataclasses.dataclass(frozen=True)
class Letter:
    """A dead letter as it is read back. `number`: its offset in the dead topic; `cut_from`: bytes that it had, where it was too long to keep;
    `cut_headers`: bytes of its headers that weren't kept."""

    number: int
    source: Message
    reason: str
    detail: str
    digest: str
    cut_from: int | None
    cut_headers: int = 0

    @property
    def whole(self) -> bool:
        """Whether it is as it was, so that it can be sent again."""
        return self.cut_from is None and not self.cut_headers

    @property
    def identity(self) -> Identity:
        """What two copies of one letter have in common."""
        return self.source.kind, str(self.source.partition), str(self.source.offset), self.digest


class DeadLetters:
    """Writes the dead topic of one model.

    Args:
        known: returns the letters at the topic's end; asked once.
        max_bytes: a letter that would be larger, with its headers and all, is cut: the topic wouldn't take it.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        writer: Writer,
        known: Callable[[], Iterable[Letter]],
        *,
        max_bytes: int = MAX_WAITING_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._ask_known = known
        self._most_bytes = self._max_bytes = max_bytes
        self._clock = clock
        self._refused_at = 0.0
        self._known: collections.OrderedDict[Identity, None] | None = None
        self._waiting: dict[Identity, Outgoing] = {}
        self._waiting_bytes = 0
        self._told_at = -TELL_S
        self._untold: collections.Counter[str] = collections.Counter()
        self._first_untold: dict[str, str] = {}

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
        if message.unreadable:
            headers[CUT_FROM] = "0"  # nothing of it can be kept
        if self._max_bytes < self._most_bytes and self._clock() - self._refused_at >= TRY_AGAIN_S:
            self._max_bytes = self._most_bytes
        letter = Outgoing(DEAD, 0, headers, message.value)
        size = _size(letter)
        if size > self._max_bytes or size - len(message.value) > min(MAX_HEADER_BYTES, self._max_bytes // 3):
            letter = _cut(letter, self._max_bytes)
            size = _size(letter)
        self._waiting[_identity_of(headers)] = letter
        self._waiting_bytes += size

    def make_room(self) -> None:
        """Write what waits where it is much; raises as `flush`. Called before more is taken in."""
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Make every letter safe.

        Raises:
            UnavailableError: the stream takes nothing; what didn't arrive waits on.
        """
        self._tell()
        if not self._waiting:
            return
        if self._known is None:
            try:
                self._known = collections.OrderedDict((letter.identity, None) for letter in self._ask_known())
            except ConfigurationError as error:  # of a client that is made for it
                raise away(error) from None
        letters = {identity: one for identity, one in self._waiting.items() if identity not in self._known}
        while letters:
            letters = self._write(letters)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        self._waiting.clear()
        self._waiting_bytes = 0

    def _write(self, letters: dict[Identity, Outgoing]) -> dict[Identity, Outgoing]:
        """Write letters and note those that arrived; returns what is left to write where one was too large: that and the rest, cut."""
        try:
            self._writer.write(list(letters.values()))
        except NotWritten as error:
            rest = {_identity_of(one.headers): one for one in error.rest}
            self._arrived({identity: one for identity, one in letters.items() if identity not in rest})
            size = _size(error.rest[0])
            if not error.too_large or _size(_cut(error.rest[0], size // 2)) >= size:
                raise
            self._max_bytes, self._refused_at = size // 2, self._clock()
            log = structlog.get_logger()
            log.error("the dead topic takes no letter so large, it is cut", num_bytes=size, fix=error.fix)
            return {identity: _cut(one, self._max_bytes) for identity, one in rest.items()}
        self._arrived(letters)
        return {}

    def _arrived(self, letters: dict[Identity, Outgoing]) -> None:
        assert self._known is not None
        self._known.update(dict.fromkeys(letters))
        if letters:
            first = next(iter(letters.values())).headers
            self._first_untold = self._first_untold or {name: first[name] for name in (KIND, PARTITION, OFFSET, DETAIL)}
            self._untold.update(one.headers[REASON] for one in letters.values())
            self._tell()

    def _tell(self, *, now: bool = False) -> None:
        """Log what was written: one line, however many there are, and none soon after the last."""
        if self._untold and (now or self._clock() - self._told_at >= TELL_S):
            reasons, first = dict(self._untold), self._first_untold
            structlog.get_logger().error("dead letters", num=self._untold.total(), reasons=reasons, first=first)
            self._told_at = self._clock()
            self._untold.clear()
            self._first_untold = {}

    def close(self) -> None:
        """Let go of the stream; letters that wait are read again from the last checkpoint."""
        self._tell(now=True)
        self._writer.close()


def read_letters(consumer: Consumer, newest: int | None = None) -> Iterator[Letter]:
    """Yield the letters that a consumer of the dead topic alone finds, oldest first, each once; raises UnavailableError.

    Args:
        newest: only about so many of the last ones.
    """
    waiting = consumer.lag()
    ((position, start),) = consumer.positions().items()
    end, silent_since = start + waiting, time.monotonic()
    if newest is not None and waiting > newest:
        consumer.seek({position: end - newest})
    seen: set[Identity] = set()
    while consumer.positions()[position] < end and time.monotonic() - silent_since < SILENT_S:
        messages = consumer.poll(1000)
        for message in messages:
            consumer.advance(message)
            letter = letter_of(message)
            if letter.identity not in seen:
                seen.add(letter.identity)
                yield letter
        if messages:
            silent_since = time.monotonic()
        else:
            time.sleep(POLL_S)  # brokers were asked, and answer when they can


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
        _number(headers.get(CUT_HEADERS)),
    )


def _cut(letter: Outgoing, max_bytes: int) -> Outgoing:
    """Return a letter that has at most so many bytes, as far as that can be: first of its message's headers, then of its value."""
    headers = {name: text for name, text in letter.headers.items() if not name.startswith(ORIGINAL)}
    room = max_bytes - _size(Outgoing(letter.kind, letter.partition, headers, b""))
    header_room, cut = min(MAX_HEADER_BYTES, room // 2), _number(headers.get(CUT_HEADERS))
    for name, text in letter.headers.items():
        if name not in headers:
            size = _header_size(name, text)
            if size <= header_room:
                headers[name] = text
                header_room, room = header_room - size, room - size
            else:
                cut += size
    if cut:
        headers[CUT_HEADERS] = str(cut)
    value = letter.value
    if len(value) > room:
        headers.setdefault(CUT_FROM, str(len(value)))
        value = value[: max(room, 0)]
    return Outgoing(letter.kind, letter.partition, headers, value)


def _size(letter: Outgoing) -> int:
    """Return at least how many bytes a stream needs for a letter."""
    text = "".join([*letter.headers, *letter.headers.values()])
    num_bytes = len(text) if text.isascii() else len(text.encode(errors="replace"))
    return FRAMING_BYTES + len(letter.value) + HEADER_FRAMING_BYTES * len(letter.headers) + num_bytes


def _header_size(name: str, text: str) -> int:
    return HEADER_FRAMING_BYTES + len(name.encode(errors="replace")) + len(text.encode(errors="replace"))


def _identity_of(headers: Mapping[str, str]) -> Identity:
    return headers[KIND], headers[PARTITION], headers[OFFSET], headers[DIGEST]


def _number(text: object) -> int:
    try:
        return int(str(text))
    except ValueError:
        return 0
