"""Processes deletion records: deletes the files that they name from the artifact store."""

import logging

from jobs.artifacts import ArtifactStore
from jobs.database import Database, is_outage, now_ms
from jobs.records import DeletionRecord
from jobs.repository import deletions
from jobs.service.unneeded import is_key_in_use
from jobs.settings import Settings

BATCH_SIZE = 100
CLAIM_TTL_MS = 60_000  # if a leader dies while deleting, the next one may claim its records after this time
MIN_BACKOFF_MS = 5_000  # a deletion may fail while the runner of a lost attempt is still writing
MAX_BACKOFF_MS = 3_600_000

log = logging.getLogger(__name__)


class Cleaner:
    """Processes due deletion records in batches; failed deletions are retried later."""

    def __init__(self, database: Database, store: ArtifactStore, settings: Settings) -> None:
        self._database = database
        self._store = store
        self._settings = settings

    def clean(self) -> int:
        """Process one batch of due records; return the number of records."""
        with self._database.writing() as connection:
            now = now_ms(connection)
            due = deletions.claim_due(connection, now=now, limit=BATCH_SIZE, until=now + CLAIM_TTL_MS)
        done = [record.id for record in due if record.key is not None and self._delete(record, record.key)]
        if done:
            with self._database.writing() as connection:
                deletions.remove(connection, done)
        return len(due)

    def _delete(self, record: DeletionRecord, key: str) -> bool:
        """Delete a key from the store; return False if the deletion must be retried."""
        try:
            with self._database.reading() as connection:
                in_use = is_key_in_use(connection, key, record.job_id)
            if in_use:
                log.warning("not deleting %s (reason: %s), because it is in use", key, record.reason)
            else:
                self._store.delete(key)
        except Exception as error:
            if is_outage(error):
                raise
            self._postpone(record, error)
            return False
        return True

    def _postpone(self, record: DeletionRecord, error: Exception) -> None:
        backoff_ms = min(MAX_BACKOFF_MS, MIN_BACKOFF_MS * 2 ** min(record.attempts - 1, 10))
        log.warning("cannot delete %s, will retry in %d s: %s", record.key, backoff_ms // 1000, error)
        with self._database.writing() as connection:
            deletions.postpone(connection, record.id, now_ms(connection) + backoff_ms)
