"""Why a request gets no answer: each refusal has a gRPC status that a caller can act on, a reason that is counted, a sentence.

Refusal
 +- INVALID_ARGUMENT   the request is wrong: mend it
 +- NOT_FOUND          no such model or version here
 +- RESOURCE_EXHAUSTED too large, or too many at once: send less or later
 +- DEADLINE_EXCEEDED  the caller's time was up before the student ran
 +- UNAVAILABLE        no version yet, or the process is stopping: try again
 +- INTERNAL           the student failed on a request that passed every check: a bug in the version
"""

from typing import Literal

from protos.errors import EverstillError

#: A status travels in a header of bounded size: a sentence that quotes a caller's long name must not burst it.
MAX_MESSAGE_CHARACTERS = 300

Code = Literal["INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "INTERNAL"]


class Refusal(EverstillError):
    """A request that is answered with a status instead of a result."""

    def __init__(self, code: Code, reason: str, message: str, *, fix: str = "") -> None:
        if len(message) > MAX_MESSAGE_CHARACTERS:
            message = message[:MAX_MESSAGE_CHARACTERS] + "..."
        super().__init__(message, fix=fix)
        self.code = code
        self.reason = reason
