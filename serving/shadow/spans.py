"""The spans in which the teacher's breaker was open, until a report that says them is on the stream.

Decides what a report says of them: each in order, until the stream has taken a report with it; the one that lasts has no end yet, and is said again by every report until it has one. Few are
kept: where there are more, the two that lie closest become one. Part of the journal, so that they outlive a stream that is away and a mirror that is killed. Knows
no teacher and no clock. One thread.
"""

from collections.abc import Iterable

#: Spans that a report carries, at most.
MAX_SPANS = 64
#: One span: start and end in unix nanoseconds; 0 is no end yet.
Span = tuple[int, int]


class OpenSpans:
    """What is still to be told.

    Args:
        told: what the journal holds, None where it holds nothing.
    """

    def __init__(self, told: Iterable[Span] | None = None) -> None:
        self._spans: dict[int, int] = dict(told or ())
        self._newest = 0

    def to_json(self) -> list[Span]:
        """Return what the journal keeps."""
        return list(self._spans.items())

    def begin_again(self, now_unix_ns: int) -> None:
        """Let a span that lasted end: a mirror begins again, with a breaker that is closed. Nobody was asked in between."""
        for start, end in self._spans.items():
            self._spans[start] = end or max(now_unix_ns, start)

    def note(self, spans: Iterable[Span]) -> None:
        """Take in what the breaker says of its newest spans, oldest first; only its last one may have changed, and others have come."""
        for start, end in spans:
            if start > self._newest or (start == self._newest and start in self._spans):
                self._newest, self._spans[start] = start, end
        while len(self._spans) > MAX_SPANS:
            self._join_closest()

    def taken(self) -> None:
        """Forget those that have ended: the stream took a report with them."""
        self._spans = {start: end for start, end in self._spans.items() if not end}

    def _join_closest(self) -> None:
        """Make one span of two; the last is left alone, since it may still change."""
        spans = self.to_json()
        first = min(range(len(spans) - 2), key=lambda place: spans[place + 1][0] - spans[place][1])
        (start, _), (_, end) = spans[first : first + 2]
        spans[first : first + 2] = [(start, end)]
        self._spans = dict(spans)
