"""Turns the signals that ask `up` to stop into an event that can be waited for."""

import signal
import threading
import time

REPEAT_WINDOW_SECONDS = 1.0  # wrappers may forward a Ctrl-C that the terminal has already delivered


class StopRequest:
    """An event set by SIGINT, SIGTERM or SIGHUP; another signal more than a second later makes it urgent."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._first = 0.0
        self.urgent = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle_signal)

    def __bool__(self) -> bool:
        """Return whether a stop was requested."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for a stop request; return whether there is one."""
        return self._event.wait(seconds)

    def _handle_signal(self, _number: int, _frame: object) -> None:
        now = time.monotonic()
        if not self._event.is_set():
            self._first = now
        self.urgent = now - self._first > REPEAT_WINDOW_SECONDS
        self._event.set()
