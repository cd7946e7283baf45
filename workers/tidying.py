"""Cleans up this machine's disk while the worker runs."""

import logging
import threading

from jobs.artifacts import ArtifactStore, ObjectStore
from jobs.database import Database
from jobs.service.workspaces import list_unneeded
from jobs.settings import Settings

CLEANUP_INTERVAL_SECONDS = 60.0

log = logging.getLogger(__name__)


class DiskCleaner:
    """A thread that limits the size of the cache and deletes unneeded workspaces that exist only on this machine."""

    def __init__(self, database: Database, store: ArtifactStore, settings: Settings) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tidying", daemon=True)

    def start(self) -> None:
        """Clean up now, then at regular intervals."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current run; do not wait for it."""
        self._stopping.set()

    def tidy(self) -> None:
        """Clean up once."""
        self._store.tidy()
        if not isinstance(self._store, ObjectStore):  # in a shared directory, the leader deletes workspaces
            return
        with self._database.reading() as connection:
            unneeded = list_unneeded(connection, self._store.list_workspaces(), self._settings)
        for key in unneeded:
            self._store.delete_workspace(key)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.tidy()
            except Exception as error:  # noqa: BLE001 - any failure is retried
                log.warning("disk cleanup failed, will retry: %s", error)
            self._stopping.wait(CLEANUP_INTERVAL_SECONDS)
