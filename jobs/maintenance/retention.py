"""Deletes data that is older than the operator wants to keep, and expired files."""

from collections.abc import Callable, Collection, Sequence

from sqlalchemy import Connection

from jobs.database import Database, now_ms
from jobs.records import ArtifactRecord
from jobs.repository import chats, feed, metrics, removal, samples, sessions
from jobs.service import deletions, uploads
from jobs.service.chats import fail_abandoned
from jobs.service.feed import MAX_KEPT_ENTRIES
from jobs.service.history import HOUR_MS
from jobs.service.unneeded import DAY_MS, DeletionReason, record_deletions
from jobs.settings import Settings
from jobs.state import JobState

BATCH_SIZE = 200


class RetentionPass:
    """One pass over all data that can expire; each batch is a separate transaction."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def expire(self) -> None:
        """Delete all expired data: files, uploads, chats, and final jobs or their artifacts, log lines and events."""
        kept = self._settings
        self._expire_files()
        self._expire_dashboard_data()
        self._expire_chats()
        with self._database.writing() as connection:
            uploads.delete_expired(connection)
        self._apply_to_old_jobs(kept.keep_jobs_days, self._erase_jobs)
        self._apply_to_old_jobs(kept.keep_artifacts_days, self._expire_artifacts)
        self._apply_to_old_jobs(kept.keep_logs_days, lambda c, jobs: removal.delete_events(c, jobs, ["log"]))
        self._apply_to_old_jobs(kept.keep_events_days, self._expire_events)

    def _apply_to_old_jobs(self, days: float, treat: Callable[[Connection, Sequence[str]], object]) -> None:
        """Call `treat` with all jobs that finished more than `days` days ago, in batches; 0 days means never."""
        after: str | None = "" if days else None
        while after is not None:
            with self._database.writing() as connection:
                time = now_ms(connection) - int(days * DAY_MS)
                found = removal.list_jobs_finished_before(connection, time, after=after, limit=BATCH_SIZE)
                if found:
                    treat(connection, found)
            after = found[-1] if found else None

    def _erase_jobs(self, connection: Connection, job_ids: Sequence[str]) -> None:
        """Delete jobs, but keep those whose model another job, finished or not, still refers to."""
        deletions.erase_jobs(connection, job_ids, self._settings, users=tuple(JobState))

    @staticmethod
    def _expire_events(connection: Connection, job_ids: Sequence[str]) -> None:
        """Delete state changes, progress and metrics; the metrics of a fine-tune remain in its artifact."""
        removal.delete_events(connection, job_ids, ["state", "progress"])
        metrics.remove(connection, job_ids)

    def _expire_files(self) -> None:
        after: str | None = ""
        while after is not None:
            with self._database.writing() as connection:
                found = removal.list_expired_files(connection, now=now_ms(connection), after=after, limit=BATCH_SIZE)
                for file in found:
                    deletions.expire_file(connection, file)
            after = found[-1].id if found else None

    def _expire_dashboard_data(self) -> None:
        """Delete data that only the dashboard needs: old feed entries, machine samples, expired sessions."""
        with self._database.writing() as connection:
            feed.prune(connection, keep=MAX_KEPT_ENTRIES)
            samples.remove_before(connection, now_ms(connection) - HOUR_MS)
            sessions.remove_expired(connection, now=now_ms(connection))

    def _expire_chats(self) -> None:
        """Delete old chats, and mark chats as failed if their API process has ended."""
        with self._database.writing() as connection:
            fail_abandoned(connection)
        removed = BATCH_SIZE if self._settings.keep_chats_days else 0
        while removed == BATCH_SIZE:
            with self._database.writing() as connection:
                time = now_ms(connection) - int(self._settings.keep_chats_days * DAY_MS)
                removed = chats.remove_before(connection, time, limit=BATCH_SIZE)

    @staticmethod
    def _expire_artifacts(connection: Connection, job_ids: Collection[str]) -> None:
        """Delete artifacts that do not belong to a model."""
        loose = [
            each for each in removal.list_artifacts(connection, job_ids) if not _belongs_to_model(connection, each)
        ]
        removal.delete_artifacts(connection, [artifact.id for artifact in loose])
        for artifact in loose:
            now = now_ms(connection)
            record_deletions(connection, [artifact.key], DeletionReason.EXPIRED, now=now, job_id=artifact.job_id)


def _belongs_to_model(connection: Connection, artifact: ArtifactRecord) -> bool:
    return removal.find_owning_model(connection, artifact) is not None
