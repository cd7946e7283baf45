"""Writes the access log in batches from a thread, because one write per line would cost more than the response."""

import logging
import queue
import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO

BATCH_INTERVAL_SECONDS = 0.1
MAX_WAITING_LINES = 20_000


class BatchingHandler(logging.Handler):
    """A log handler that collects lines for a tenth of a second and writes them together; `close` writes the rest.

    While the stream cannot be written to (for example because the disk is full) or is too slow, lines are dropped and
    counted, so that the log neither stops for good nor fills up memory.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = stream or sys.stderr
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = 0  # changed only by emit, whose callers hold the handler's lock
        self._unwritten = 0  # changed only by the writer thread
        self._reported = 0
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or drop it if too many are waiting."""
        if self._lines.qsize() < MAX_WAITING_LINES:
            self._lines.put(self.format(record))
        else:
            self._dropped += 1

    def close(self) -> None:
        """Write the remaining lines and stop the thread."""
        if self._thread.is_alive():
            self._lines.put(None)
            self._thread.join()
        super().close()

    def _run(self) -> None:
        ended = False
        while not ended:
            first = self._lines.get()
            if first is not None:
                time.sleep(BATCH_INTERVAL_SECONDS)
            batch = [first]
            while not self._lines.empty():
                batch.append(self._lines.get())
            ended = None in batch
            self._write([line for line in batch if line is not None])

    def _write(self, lines: Sequence[str]) -> None:
        lost = self._dropped + self._unwritten
        news = lost - self._reported
        notes = [f"{news} access log lines were lost because the file could not be written fast enough"] if news else []
        try:
            self._stream.write("".join(f"{line}\n" for line in [*notes, *lines]))
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._unwritten += len(lines)
        else:
            self._reported = lost
