"""The word to stop, as a process hears it: from a signal, from its parent, or from a thread of its own that failed.

Decides only that the word can't be lost. A signal's handler runs in the main thread, between any two of its steps: `Event.set` there
waits for ever where the main thread is inside that event's own `wait`. So the handler puts into a SimpleQueue, which is made for that.
"""

import queue
import signal
import threading

#: How often the main thread wakes up, in seconds: Python runs signal handlers only there, also of signals that another thread received.
WAKE_S = 1.0


class Stopping:
    """Told by anyone, waited for by the main thread; `event` is for the other threads, and is set a moment later."""

    def __init__(self, *signals: int) -> None:
        self.event = threading.Event()
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()
        for number in signals:
            signal.signal(number, lambda *_: self.tell())

    def tell(self) -> None:
        """Say the word; any thread, also in a signal's handler."""
        self._told.put(None)

    def heard(self, wait_s: float = 0.0) -> bool:
        """Return whether the word was said, waiting at most so long for it. Main thread, which has other work to do."""
        if not self.event.is_set():
            try:
                self._told.get(timeout=wait_s) if wait_s else self._told.get_nowait()
            except queue.Empty:
                return False
            self.event.set()
        return True

    def wait(self) -> None:
        """Wait for the word. Main thread."""
        while not self.event.is_set():
            try:
                self._told.get(timeout=WAKE_S)
            except queue.Empty:
                continue
            self.event.set()
