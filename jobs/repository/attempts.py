"""Rows of `attempts`."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.records import AttemptRecord
from jobs.state import AttemptState
from jobs.tables import Attempt

OPEN = (AttemptState.DISPATCHED, AttemptState.RUNNING)


def add(connection: Connection, attempt: AttemptRecord) -> None:
    """Insert a new attempt."""
    connection.execute(
        sa.insert(Attempt).values(
            id=attempt.id,
            job_id=attempt.job_id,
            number=attempt.number,
            worker_id=attempt.worker_id,
            state=attempt.state,
            deadline=attempt.deadline,
            dispatched_at=attempt.dispatched_at,
        )
    )


def get(connection: Connection, attempt_id: str) -> AttemptRecord | None:
    """The attempt of this id."""
    row = connection.execute(sa.select(Attempt.__table__).where(Attempt.id == attempt_id)).first()
    return AttemptRecord(**row._mapping) if row else None


def of_job(connection: Connection, job_id: str) -> list[AttemptRecord]:
    """All attempts at a job, first to last."""
    rows = connection.execute(sa.select(Attempt.__table__).where(Attempt.job_id == job_id).order_by(Attempt.number))
    return [AttemptRecord(**row._mapping) for row in rows]


def update(connection: Connection, attempt_id: str, changes: Mapping[str, Any]) -> None:
    """Change columns of an attempt."""
    connection.execute(sa.update(Attempt).where(Attempt.id == attempt_id).values(**changes))


def extend(connection: Connection, attempt_id: str, worker_id: str, deadline: int) -> bool:
    """Renew the lease; False if this worker no longer holds a running attempt."""
    statement = (
        sa.update(Attempt)
        .where(Attempt.id == attempt_id, Attempt.worker_id == worker_id, Attempt.state == AttemptState.RUNNING)
        .values(deadline=deadline)
    )
    return connection.execute(statement).rowcount == 1


def overdue(connection: Connection, *, now: int, limit: int) -> list[AttemptRecord]:
    """Open attempts whose pick-up time or lease is over."""
    query = (
        sa.select(Attempt.__table__)
        .where(sa.text("state IN ('dispatched', 'running')"), Attempt.deadline < now)
        .order_by(Attempt.deadline)
        .limit(limit)
    )
    return [AttemptRecord(**row._mapping) for row in connection.execute(query)]


def last_unclaimed(connection: Connection, worker_id: str, *, until: int) -> int | None:
    """When the newest attempt that this worker has not claimed went out, of those sent until then."""
    query = sa.select(sa.func.max(Attempt.dispatched_at)).where(
        sa.text("state IN ('dispatched', 'running')"),
        Attempt.state == AttemptState.DISPATCHED,
        Attempt.worker_id == worker_id,
        Attempt.dispatched_at <= until,
    )
    return connection.execute(query).scalar_one()


def open_by_worker(connection: Connection) -> dict[str, int]:
    """How many open attempts each worker has."""
    query = (
        sa.select(Attempt.worker_id, sa.func.count())
        .where(sa.text("state IN ('dispatched', 'running')"))
        .group_by(Attempt.worker_id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}
