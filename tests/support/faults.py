"""A store whose writes fail where a test says so: as a crash would end the process, or as a full disk would."""

import dataclasses
import re
from collections.abc import Callable
from typing import Literal, TypeVar

from obstore.store import MemoryStore

from protos.errors import UnavailableError
from registry.store import ObjectStore

Value = TypeVar("Value")


class Killed(BaseException):
    """The process ended here. No code of the product catches it."""


@dataclasses.dataclass
class Fault:
    """One fault: at the `nth` write (from 1) of a path that matches.

    Args:
        when: "before" the write, or "after" it, when it has happened and its writer never hears of it.
        kind: "killed" ends the process, "unavailable" is told to the writer as an error.
    """

    pattern: str
    nth: int
    when: Literal["before", "after"]
    kind: Literal["killed", "unavailable"]
    seen: int = 0
    happened: bool = False

    def strike(self, path: str, when: str) -> None:
        """Raise where this is the place."""
        if when == "before":
            self.seen += bool(re.search(self.pattern, path))
        if self.happened or self.seen != self.nth or when != self.when or not re.search(self.pattern, path):
            return
        self.happened = True
        if self.kind == "killed":
            raise Killed(path)
        raise UnavailableError(f"{path} can't be written: a fault of this test")


class FaultyStore(ObjectStore):
    """A store over a backend that others share, with at most one fault; it remembers what was written."""

    def __init__(self, backend: MemoryStore, fault: Fault | None = None) -> None:
        super().__init__(backend)
        self._fault = fault
        self.written: list[str] = []

    def create(self, path: str, data: bytes) -> str:
        """Write an object that must not exist yet."""
        return self._write(path, lambda: super(FaultyStore, self).create(path, data))

    def put(self, path: str, data: bytes) -> str:
        """Write an object whatever was there."""
        return self._write(path, lambda: super(FaultyStore, self).put(path, data))

    def swap(self, path: str, data: bytes, expected: str | None) -> str:
        """Replace an object if it is the expected one; where none is, that is a `create`."""
        swap = super().swap
        return swap(path, data, None) if expected is None else self._write(path, lambda: swap(path, data, expected))

    def _write(self, path: str, write: Callable[[], Value]) -> Value:
        if self._fault:
            self._fault.strike(path, "before")
        result = write()
        self.written.append(path)
        if self._fault:
            self._fault.strike(path, "after")
        return result
