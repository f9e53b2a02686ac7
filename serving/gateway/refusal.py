"""Why a request gets no answer: each refusal has a gRPC status that a caller can act on, a reason that is counted, a sentence.

Refusal
 +- INVALID_ARGUMENT   the request is wrong, or student or teacher can't answer its values: mend it
 +- NOT_FOUND          no such model or version here
 +- RESOURCE_EXHAUSTED too large, or too many at once: send less or later
 +- DEADLINE_EXCEEDED  the caller's time was up before the student ran, or the teacher answered
 +- UNAVAILABLE        no version yet, or the process is stopping: try again
 +- UNIMPLEMENTED      a call that this gateway never answers
 +- INTERNAL           a bug of the gateway or of the version; docs/protocol.md has the table of all reasons
"""

from typing import Literal

from protos.errors import EverstillError

#: A status travels in a header of bounded size: a sentence that quotes a caller's long name must not burst it.
MAX_MESSAGE_CHARACTERS = 300

Code = Literal[
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "UNAVAILABLE",
    "UNIMPLEMENTED",
    "INTERNAL",
]


class Refusal(EverstillError):
    """A request that is answered with a status instead of a result."""

    def __init__(self, code: Code, reason: str, message: str, *, fix: str = "") -> None:
        if len(message) > MAX_MESSAGE_CHARACTERS:
            message = message[:MAX_MESSAGE_CHARACTERS] + "..."
        super().__init__(message, fix=fix)
        self.code = code
        self.reason = reason


def invalid(reason: str, message: str, fix: str) -> Refusal:
    """Return the refusal of a request that is wrong."""
    return Refusal("INVALID_ARGUMENT", reason, message, fix=fix)


def overload(num_inside: int) -> Refusal:
    """Return the refusal of a request that is one too many."""
    message = f"{num_inside} requests are running or waiting already"
    return Refusal("RESOURCE_EXHAUSTED", "overload", message, fix="Send fewer at once, or later")


def stopping() -> Refusal:
    """Return the refusal of a request that came after the word to stop."""
    return Refusal("UNAVAILABLE", "stopping", "this gateway is stopping", fix="Try again, there or elsewhere")
