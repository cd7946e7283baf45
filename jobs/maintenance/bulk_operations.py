"""Runs bulk operations chunk by chunk, so that other writers get a turn in between."""

import logging
import threading
import time

from jobs.database import Database
from jobs.service import bulk
from jobs.settings import Settings

POLL_INTERVAL_SECONDS = 0.5
MAX_PAUSE_SECONDS = 0.05  # each pause lasts as long as the preceding chunk took, up to this limit

log = logging.getLogger(__name__)


class BulkOperationRunner:
    """Runs bulk operations in a thread, which `start_if_due` starts and which ends when no operation is left."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._look_at = 0.0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def start_if_due(self) -> None:
        """Start the thread if a run is due and none is in progress; never block."""
        busy = self._thread is not None and self._thread.is_alive()
        if busy or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + POLL_INTERVAL_SECONDS
        self._thread = threading.Thread(target=self._run, name="bulk operations", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 5) -> None:
        """Stop after the current chunk; the next leader continues."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def run_until_done(self) -> None:
        """Process all chunks of all operations, pausing for other writers, because SQLite has only one write lock."""
        while not self._stopping.is_set():
            begun = time.monotonic()
            with self._database.writing() as connection:
                if not bulk.process_chunk(connection, self._settings):
                    return
            self._stopping.wait(min(time.monotonic() - begun, MAX_PAUSE_SECONDS))

    def _run(self) -> None:
        try:
            self.run_until_done()
        except Exception as error:  # noqa: BLE001 - whatever fails, the chunk is retried
            log.warning("a bulk operation failed and will be retried: %s", error)
