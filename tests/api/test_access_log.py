"""Batched log lines are in order, complete unless the stream fails, and bounded in memory."""

import errno
import io
import logging
import threading
from collections.abc import Callable

import pytest

from api.access_log import BatchingHandler


def test_every_line_is_written_in_its_order_by_the_end() -> None:
    stream = io.StringIO()
    handler = BatchingHandler(stream)
    for number in range(1000):
        handler.handle(logging.makeLogRecord({"msg": f"line {number}"}))
    handler.close()
    handler.close()
    assert stream.getvalue().splitlines() == [f"line {number}" for number in range(1000)]


class FailingStream(io.StringIO):
    """A file on a disk that is full until room is made."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True
        self.failures = 0

    def write(self, text: str) -> int:
        """Write, or fail like on a full disk."""
        if self.full:
            self.failures += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def log_line(handler: logging.Handler, text: str) -> None:
    handler.handle(logging.makeLogRecord({"msg": text}))


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not condition():
        pause.wait(0.01)


def test_lines_are_written_again_once_the_disk_has_room() -> None:
    stream = FailingStream()
    handler = BatchingHandler(stream)
    log_line(handler, "lost")
    wait_until(lambda: stream.failures > 0)
    stream.full = False
    log_line(handler, "kept")
    handler.close()
    note, kept = stream.getvalue().splitlines()
    assert note.startswith("1 access log lines were lost")
    assert kept == "kept"


class BlockedStream(io.StringIO):
    """A pipe whose reader has stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked = threading.Event()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        """Write once released."""
        self.blocked.set()
        self.released.wait()
        return super().write(text)


def test_a_limited_number_of_lines_waits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.access_log.MAX_WAITING_LINES", 10)
    stream = BlockedStream()
    handler = BatchingHandler(stream)
    log_line(handler, "first")
    stream.blocked.wait()
    for number in range(100):
        log_line(handler, f"line {number}")
    stream.released.set()
    handler.close()
    written = stream.getvalue().splitlines()
    assert written[0] == "first"
    assert "90 access log lines were lost" in written[1]
    assert written[2:] == [f"line {number}" for number in range(10)]
