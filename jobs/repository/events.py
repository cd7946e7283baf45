"""Rows of `events`."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import Job, JobEvent
from jobs.records import EventRecord


def append(
    connection: Connection,
    job_id: str,
    entries: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    attempt_id: str | None,
    now: int,
) -> None:
    """Append (type, data) entries to the job's log; the job row hands out the sequence numbers."""
    if not entries:
        return
    counted = sa.update(Job).where(Job.id == job_id).values(last_event=Job.last_event + len(entries))
    last = connection.execute(counted.returning(Job.last_event)).scalar_one()
    first = last - len(entries) + 1
    connection.execute(
        sa.insert(JobEvent),
        [
            {
                "job_id": job_id,
                "sequence": first + offset,
                "attempt_id": attempt_id,
                "type": kind,
                "data": dict(data),
                "created_at": now,
            }
            for offset, (kind, data) in enumerate(entries)
        ],
    )


def insert_first(connection: Connection, job_ids: Sequence[str], data: Mapping[str, Any], *, now: int) -> None:
    """The first event of jobs that were just inserted with `last_event` 1."""
    rows = [
        {"job_id": job_id, "sequence": 1, "type": "state", "data": dict(data), "created_at": now} for job_id in job_ids
    ]
    connection.execute(sa.insert(JobEvent), rows)


def page(
    connection: Connection, job_id: str, *, after: int, limit: int, types: Sequence[str] = ()
) -> list[EventRecord]:
    """Up to `limit` events of a job with a sequence number above `after`, oldest first."""
    query = sa.select(JobEvent.__table__).where(JobEvent.job_id == job_id, JobEvent.sequence > after)
    if types:
        query = query.where(JobEvent.type.in_(types))
    rows = connection.execute(query.order_by(JobEvent.sequence).limit(limit))
    return [EventRecord(**row._mapping) for row in rows]


def page_back(
    connection: Connection, job_id: str, *, before: int | None, limit: int, types: Sequence[str]
) -> list[EventRecord]:
    """Up to `limit` events of a job with a sequence number below `before`, newest first."""
    query = sa.select(JobEvent.__table__).where(JobEvent.job_id == job_id, JobEvent.type.in_(types))
    if before is not None:
        query = query.where(JobEvent.sequence < before)
    rows = connection.execute(query.order_by(JobEvent.sequence.desc()).limit(limit))
    return [EventRecord(**row._mapping) for row in rows]
