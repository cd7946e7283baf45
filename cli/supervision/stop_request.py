"""Signals that ask `up` to end, turned into something that can be waited for."""

import signal
import threading


class StopRequest:
    """Set by SIGINT, SIGTERM and SIGHUP; a second one means: at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def __bool__(self) -> bool:
        """Whether somebody has asked."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until somebody asks, at most so long."""
        return self._event.wait(seconds)

    def _note(self, _number: int, _frame: object) -> None:
        self.count += 1
        self._event.set()
