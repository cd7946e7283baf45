"""Log lines leave in batches, from a thread: a write in every request cost more than answering it."""

import logging
import queue
import sys
import threading
import time
from typing import TextIO

GATHER_SECONDS = 0.1


class BatchingHandler(logging.Handler):
    """Gathers lines for a tenth of a second and writes them at once; `close` writes what is left."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = stream or sys.stderr
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        self._lines.put(self.format(record))

    def close(self) -> None:
        """Write what is left, and end the thread."""
        if self._thread.is_alive():
            self._lines.put(None)
            self._thread.join()
        super().close()

    def _run(self) -> None:
        ended = False
        while not ended:
            first = self._lines.get()
            if first is not None:
                time.sleep(GATHER_SECONDS)
            batch = [first]
            while not self._lines.empty():
                batch.append(self._lines.get())
            ended = None in batch
            self._stream.write("".join(f"{line}\n" for line in batch if line is not None))
            self._stream.flush()
