"""A connection that is made in a thread of its own, again and again until it works, so that its user never waits for a service.

Decides only when to try again, and that what was given up is put away before the next one is made. Knows nothing of what is
connected: the mirror's publisher and the loop's consumer say how to make one, and how to put one away. `get`, `give_up` and
`close` belong to one thread; `make` and `put_away` run in the connection's own.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from protos.errors import EverstillError, UnavailableError

Connected = TypeVar("Connected")
#: Time between two tries.
PAUSE_S = 0.5


class Connection(Generic[Connected]):
    """One connection, made at the first `get` and made anew after each `give_up`.

    Args:
        make: returns a connection, or raises an EverstillError that says why there is none; takes a few seconds at most.
        put_away: ends a connection; takes a few seconds at most, and raises nothing.
    """

    def __init__(self, make: Callable[[], Connected], put_away: Callable[[Connected], None], *, name: str) -> None:
        self._make = make
        self._put_away = put_away
        self._name = name
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._connected: Connected | None = None
        self._given_up: Connected | None = None
        self._thread: threading.Thread | None = None
        self._error: EverstillError | None = None

    @property
    def error(self) -> EverstillError | None:
        """Why the last try failed; None where none did since it last worked."""
        return self._error

    def get(self, wait_s: float) -> Connected | None:
        """Return the connection, waiting at most so long for it or for the first try to fail; None where there is none yet."""
        with self._changed:
            if self._connected is None and not self._stopped.is_set():
                self._begin()
                self._changed.wait_for(lambda: self._connected is not None or self._error is not None, wait_s)
            return self._connected

    def give_up(self) -> None:
        """Let go of the connection, which no longer works, and begin to make another."""
        with self._changed:
            if self._connected is not None:  # else one was given up before, and may still have to be put away
                self._given_up, self._connected = self._connected, None
            self._begin()

    def close(self) -> None:
        """End it; waits a moment for a try that is under way."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(PAUSE_S)
        with self._changed:
            connected, self._connected = self._connected, None
        if connected is not None:
            self._put_away(connected)

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._connect, name=self._name, daemon=True)
            self._thread.start()

    def _failed(self, error: EverstillError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()
        self._stopped.wait(PAUSE_S)

    def _connect(self) -> None:
        while True:
            with self._changed:
                old, self._given_up = self._given_up, None
            if old is not None:
                self._put_away(old)
            if self._stopped.is_set():
                break
            try:
                connected = self._make()
            except EverstillError as error:
                self._failed(error)
                continue
            except Exception as error:  # supervision point: a thread that ended would never connect again
                structlog.get_logger().exception("a connection can't be made", name=self._name)
                self._failed(UnavailableError(f"{self._name} can't connect: {type(error).__name__}: {error}"))
                continue
            with self._changed:
                if not self._stopped.is_set():
                    self._connected, self._error, self._thread = connected, None, None
                    self._changed.notify_all()
                    return
            self._put_away(connected)
