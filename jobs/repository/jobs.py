"""Queries on the `jobs` and `job_labels` tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database import insert
from jobs.database.tables import Job, JobLabel
from jobs.identifiers import get_min_id_at
from jobs.records import JobDetails, JobRecord, QueuedJob
from jobs.state import JobState

RECORD_COLUMNS = [getattr(Job, field.name) for field in fields(JobRecord)]
_DETAILS_COLUMNS = [getattr(Job, field.name) for field in fields(JobDetails)]
# Polls and submissions run these statements. Building each one only once halves a query's overhead in Python.
_RECORDS_BY_ID = sa.select(*RECORD_COLUMNS).where(Job.id.in_(sa.bindparam("ids", expanding=True)))
_DETAILS_BY_ID = sa.select(*_DETAILS_COLUMNS).where(Job.id.in_(sa.bindparam("ids", expanding=True)))


def insert_new(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert the rows whose id and idempotency key are unused; return the inserted ids."""
    # Rows are passed as parameters, because a statement with all rows in VALUES would be compiled again on every call.
    inserted = connection.execute(insert(connection, Job).on_conflict_do_nothing().returning(Job.id), list(rows))
    return set(inserted.scalars())


def insert_labels(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert labels of new jobs."""
    if rows:
        connection.execute(sa.insert(JobLabel), list(rows))


def get_by_idempotency_keys(
    connection: Connection, keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], JobDetails]:
    """Return the jobs that were submitted with these (project, idempotency key) pairs."""
    pairs = sa.tuple_(Job.project_id, Job.idempotency_key)
    rows = connection.execute(sa.select(*_DETAILS_COLUMNS).where(pairs.in_(list(keys))))
    return {(row.project_id, row.idempotency_key): _to_details(row) for row in rows}


def get_many(connection: Connection, ids: Iterable[str]) -> dict[str, JobRecord]:
    """Return the jobs with these ids, by id; unknown ids are absent."""
    rows = connection.execute(_RECORDS_BY_ID, {"ids": list(ids)})
    return {row.id: to_record(row) for row in rows}


def get_details(connection: Connection, ids: Iterable[str]) -> dict[str, JobDetails]:
    """Read jobs with their specs and results, by id; unknown ids are absent."""
    rows = connection.execute(_DETAILS_BY_ID, {"ids": list(ids)})
    return {row.id: _to_details(row) for row in rows}


def lock(connection: Connection, job_id: str) -> JobRecord | None:
    """Lock the job until the transaction ends and return it (on SQLite the transaction already holds the lock)."""
    row = connection.execute(sa.select(*RECORD_COLUMNS).where(Job.id == job_id).with_for_update()).first()
    return to_record(row) if row else None


def lock_skipping_locked(connection: Connection, ids: Iterable[str]) -> dict[str, JobRecord]:
    """Lock the jobs that no other transaction has locked, until this transaction ends; return them by id."""
    query = sa.select(*RECORD_COLUMNS).where(Job.id.in_(list(ids))).order_by(Job.id)
    return {row.id: to_record(row) for row in connection.execute(query.with_for_update(skip_locked=True))}


def find_by_digest(connection: Connection, project_id: str, kind: str, digest: str, *, since: int) -> JobDetails | None:
    """Return the newest job of a kind that an identical request to OpenAI's API created at or after `since`."""
    query = sa.select(*_DETAILS_COLUMNS).where(
        Job.project_id == project_id,
        Job.kind == kind,
        Job.id >= get_min_id_at("job", since),
        Job.request_digest == digest,
        Job.openai.is_not(None),
    )
    row = connection.execute(query.order_by(Job.id.desc()).limit(1)).first()
    return _to_details(row) if row else None


def set_openai_values(connection: Connection, job_id: str, openai: Mapping[str, Any]) -> None:
    """Overwrite the values that a client of OpenAI's API sent with the job."""
    connection.execute(sa.update(Job).where(Job.id == job_id).values(openai=dict(openai)))


def count_jobs_ahead(connection: Connection, priority: int) -> int:
    """Count the queued jobs that would run before a new job with this priority."""
    query = sa.select(sa.func.count()).where(Job.state == sa.literal_column("'queued'"), Job.priority >= priority)
    return connection.execute(query).scalar_one()


def exists(connection: Connection, project_id: str, job_id: str) -> bool:
    """Whether the project has this job."""
    query = sa.select(Job.id).where(Job.project_id == project_id, Job.id == job_id)
    return connection.execute(query).first() is not None


def list_queued(connection: Connection, *, now: int, limit: int) -> list[QueuedJob]:
    """Return the first `limit` queued jobs whose back-off is over, in the order in which they should run."""
    query = (
        sa.select(Job.id, Job.kind, Job.priority, Job.requirement, Job.waiting)
        .where(Job.state == sa.literal_column("'queued'"), Job.not_before <= now)
        .order_by(Job.priority.desc(), Job.id)
        .limit(limit)
    )
    return [QueuedJob(*row) for row in connection.execute(query)]


def set_waiting_reasons(connection: Connection, reasons: Mapping[str, Mapping[str, Any]]) -> None:
    """Record why queued jobs are waiting."""
    if not reasons:
        return
    statement = (
        sa.update(Job.__table__)  # type: ignore[arg-type]
        .where(Job.__table__.c.id == sa.bindparam("job"), Job.__table__.c.state == sa.literal_column("'queued'"))
        .values(waiting=sa.bindparam("reason"), version=Job.__table__.c.version + 1)
    )
    connection.execute(statement, [{"job": job_id, "reason": dict(reason)} for job_id, reason in reasons.items()])


def compare_and_set(
    connection: Connection, job_id: str, source: JobState, target: JobState, changes: Mapping[str, Any]
) -> bool:
    """Move the job from `source` to `target`; return False if it is no longer in `source`."""
    statement = (
        sa.update(Job)
        .where(Job.id == job_id, Job.state == source)
        .values(state=target, version=Job.version + 1, **changes)
    )
    return connection.execute(statement).rowcount == 1


def compare_and_set_all(
    connection: Connection, ids: Iterable[str], source: JobState, target: JobState, changes: Mapping[str, Any]
) -> int:
    """Move all given jobs that are in `source` to `target`, with the same changes; return how many were moved."""
    statement = (
        sa.update(Job)
        .where(Job.id.in_(list(ids)), Job.state == source)
        .values(state=target, version=Job.version + 1, **changes)
    )
    return connection.execute(statement).rowcount


def set_progress(connection: Connection, job_id: str, progress: Mapping[str, Any]) -> None:
    """Overwrite the job's progress."""
    connection.execute(sa.update(Job).where(Job.id == job_id).values(progress=dict(progress), version=Job.version + 1))


def to_record(row: sa.Row[Any]) -> JobRecord:
    """Convert a row with the columns in `RECORD_COLUMNS` to a job record."""
    return JobRecord(**_build_values(row))


def _to_details(row: sa.Row[Any]) -> JobDetails:
    return JobDetails(**_build_values(row))


def _build_values(row: sa.Row[Any]) -> dict[str, Any]:
    return {**row._mapping, "state": JobState(row.state)}
