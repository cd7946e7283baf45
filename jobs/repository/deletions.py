"""Queries on the `deletions` table."""

from collections.abc import Collection, Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import Deletion
from jobs.records import DeletionRecord


def add(connection: Connection, deletions: Sequence[DeletionRecord]) -> None:
    """Insert deletions."""
    if deletions:
        connection.execute(sa.insert(Deletion), [asdict(deletion) for deletion in deletions])


def claim_due(connection: Connection, *, now: int, limit: int, until: int) -> list[DeletionRecord]:
    """Claim up to `limit` due deletions, earliest first; no one else can claim them before `until`."""
    due = (
        sa.select(Deletion.id)
        .where(Deletion.not_before <= now)
        .order_by(Deletion.not_before, Deletion.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = list(connection.execute(due).scalars())
    if not ids:
        return []
    statement = sa.update(Deletion).where(Deletion.id.in_(ids))
    connection.execute(statement.values(not_before=until, attempts=Deletion.attempts + 1))
    rows = connection.execute(sa.select(Deletion.__table__).where(Deletion.id.in_(ids)).order_by(Deletion.id))
    return [DeletionRecord(**row._mapping) for row in rows]


def postpone(connection: Connection, deletion_id: str, not_before: int) -> None:
    """Reschedule a deletion."""
    connection.execute(sa.update(Deletion).where(Deletion.id == deletion_id).values(not_before=not_before))


def remove(connection: Connection, ids: Collection[str]) -> None:
    """Remove completed deletions."""
    if ids:
        connection.execute(sa.delete(Deletion).where(Deletion.id.in_(list(ids))))


def remove_unclaimed(connection: Connection, job_id: str, reason: str) -> None:
    """Remove a job's deletions with this reason, except those that the leader has already attempted."""
    statement = sa.delete(Deletion).where(Deletion.job_id == job_id, Deletion.reason == reason, Deletion.attempts == 0)
    connection.execute(statement)


def remove_by_key(connection: Connection, key: str, reason: str) -> None:
    """Cancel the pending deletions of a key that were scheduled for this reason."""
    connection.execute(sa.delete(Deletion).where(Deletion.key == key, Deletion.reason == reason))


def list_keys(connection: Connection, job_id: str, *, due: int | None = None) -> list[str]:
    """Return the keys of a job's files that are to be deleted; with `due`, only those due by that time."""
    query = sa.select(Deletion.key).where(Deletion.job_id == job_id, Deletion.key.is_not(None))
    if due is not None:
        query = query.where(sa.or_(Deletion.not_before <= due, Deletion.attempts > 0))
    return [key for key in connection.execute(query).scalars() if key is not None]
