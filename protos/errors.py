"""The root of everstill's errors. Every room grows its own branch from here.

EverstillError
 +- ConfigurationError     a setting is unknown, missing or impossible
 +- FormatError            bytes that are not what their format says (a torn file, a hostile message)
 |   +- TensorError        a tensor whose name, datatype, shape or bytes don't fit
 |   +- RecordError        a message or a record of the stream that can't be taken in
 +- UnavailableError       something this process needs is away: a port, a folder, a disk, a service
 +- ConflictError          somebody else was first: a pointer moved, a name is taken, a lease was lost

An error says what was wrong, where, and what to do: `message` and `fix` are both sentences that a person can act on.
Command lines print them as one line each and exit with `exit_code`; servers map them to a gRPC status.
"""

#: Characters of a sentence that is made of somebody else's bytes.
MAX_SENTENCE = 500


def plain(sentence: str) -> str:
    """Return a sentence that holds somebody else's text as a log and a terminal may show it: cut, and without control characters."""
    cut = sentence if len(sentence) <= MAX_SENTENCE else f"{sentence[:MAX_SENTENCE]}..."
    return "".join(one if one.isprintable() else "?" for one in cut)


class EverstillError(Exception):
    """An error that its reader can act on.

    Args:
        message: what was wrong and where, without a trailing full stop.
        fix: what to do about it; empty where nothing can be done.
    """

    exit_code = 1

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}. {self.fix}" if self.fix else self.message


class ConfigurationError(EverstillError):
    """A setting is unknown, missing or impossible."""

    exit_code = 2


class FormatError(EverstillError):
    """Bytes that are not what their format says."""

    exit_code = 3


class TensorError(FormatError):
    """A tensor whose name, datatype, shape or byte count doesn't fit. `reason` is a short slug for counting."""

    def __init__(self, message: str, *, fix: str = "", reason: str = "bad_tensor") -> None:
        super().__init__(message, fix=fix)
        self.reason = reason


class RecordError(FormatError):
    """A message or a record of the stream that can't be taken in. `reason` is a short slug for counting."""

    def __init__(self, message: str, reason: str, *, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.reason = reason


class UnavailableError(EverstillError):
    """Something this process needs is away: a port, a folder, disk space, a service."""

    exit_code = 4


class ConflictError(EverstillError):
    """Somebody else was first: a pointer moved, a name is taken, a lease was lost."""

    exit_code = 5
