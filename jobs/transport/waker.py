"""Wakes the dispatcher without delaying the caller."""

import threading
from collections.abc import Callable


class Waker:
    """A thread that wakes the dispatcher, so that an unreachable Redis never delays a request."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._wanted = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="waker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Request a wake-up; unsent requests are merged."""
        self._wanted.set()

    def close(self) -> None:
        """Send a pending wake-up and stop the thread."""
        self._stopping = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._wanted.wait()
            self._wanted.clear()
            self._wake()
