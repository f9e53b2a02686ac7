"""One check of `everstill doctor`: what was looked at, how it is, and what to do. Pure."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from protos.errors import ConfigurationError, EverstillError, UnavailableError

State = Literal["ok", "warn", "fail"]


@dataclasses.dataclass(frozen=True)
class Check:
    """Args:
    about: what was looked at, e.g. `port 8001`.
    found: how it is, as a sentence.
    fix: what to do where it isn't ok.
    exit_code: what a failure means for the command's exit code.
    """

    about: str
    state: State
    found: str
    fix: str = ""
    exit_code: int = 1


def ok(about: str, found: str) -> Check:
    """Return a check that passed."""
    return Check(about, "ok", found)


def warn(about: str, found: str, fix: str) -> Check:
    """Return a check that doesn't keep anything from starting."""
    return Check(about, "warn", found, fix)


def fail(about: str, found: str, fix: str, kind: type[EverstillError] = EverstillError) -> Check:
    """Return a check that failed."""
    return Check(about, "fail", found, fix, kind.exit_code)


def attempt(about: str, look: Callable[[], Check | str | None]) -> Iterator[Check]:
    """Yield what `look` finds: a check, a sentence that is ok, or nothing; an error that it raises is a failure."""
    try:
        found = look()
    except EverstillError as error:
        yield Check(about, "fail", error.message, error.fix, error.exit_code)
        return
    if found is not None:
        yield ok(about, found) if isinstance(found, str) else found


def exit_code(checks: Iterable[Check]) -> int:
    """Return 0 without failures; 2 or 4 where all are of configuration, or of something that is away; else 1."""
    codes = {one.exit_code for one in checks if one.state == "fail"}
    if not codes:
        return 0
    kinds = {ConfigurationError.exit_code, UnavailableError.exit_code}
    return codes.pop() if len(codes) == 1 and codes <= kinds else 1
