"""Runs the leader's deletions in a thread, so that a slow store does not delay the dispatcher."""

import logging
import threading
import time

from jobs.artifacts import open_store
from jobs.database import Database
from jobs.maintenance.cleaner import BATCH_SIZE, Cleaner
from jobs.maintenance.retention import RetentionPass
from jobs.settings import Settings

CLEANING_INTERVAL_SECONDS = 1.0
EXPIRY_INTERVAL_SECONDS = 300.0

log = logging.getLogger(__name__)


class Janitor:
    """Processes due deletions in a thread, which `start_if_due` starts and which ends when none is left."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._clean_at = 0.0
        self._expire_at = 0.0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def start_if_due(self) -> None:
        """Start the thread if a run is due and none is in progress; never block."""
        busy = self._thread is not None and self._thread.is_alive()
        if busy or time.monotonic() < self._clean_at:
            return
        self._clean_at = time.monotonic() + CLEANING_INTERVAL_SECONDS
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 5) -> None:
        """Start no more work, and wait up to `seconds` for the thread; the next leader repeats unfinished work."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            if time.monotonic() >= self._expire_at:
                self._expire_at = time.monotonic() + EXPIRY_INTERVAL_SECONDS
                RetentionPass(self._database, self._settings).expire()
                open_store(self._settings).tidy()
            cleaner = Cleaner(self._database, open_store(self._settings), self._settings)
            while not self._stopping.is_set() and cleaner.clean() == BATCH_SIZE:
                pass
        except Exception as error:  # noqa: BLE001 - whatever fails, deletions are retried
            log.warning("deletions failed and will be retried: %s", error)
