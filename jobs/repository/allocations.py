"""Queries on the `allocations` table."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import Allocation, Job
from jobs.records import AllocationRecord

_IS_OPEN = sa.text("deadline IS NOT NULL")  # must be identical to the condition of the partial index


def add(connection: Connection, allocations: Sequence[AllocationRecord]) -> None:
    """Insert the allocations of a new attempt."""
    connection.execute(sa.insert(Allocation), [asdict(allocation) for allocation in allocations])


def group_by_attempt(connection: Connection, attempt_ids: Collection[str]) -> dict[str, list[AllocationRecord]]:
    """Return a mapping from attempt id to the attempt's allocations, ordered by node."""
    query = (
        sa.select(Allocation.__table__).where(Allocation.attempt_id.in_(list(attempt_ids))).order_by(Allocation.node)
    )
    found: dict[str, list[AllocationRecord]] = {attempt_id: [] for attempt_id in attempt_ids}
    for row in connection.execute(query):
        found[row.attempt_id].append(AllocationRecord(**row._mapping))
    return found


def list_open(connection: Connection) -> list[AllocationRecord]:
    """Return all allocations whose attempts have not ended."""
    rows = connection.execute(sa.select(Allocation.__table__).where(_IS_OPEN))
    return [AllocationRecord(**row._mapping) for row in rows]


def map_jobs_to_models(connection: Connection) -> dict[str, str]:
    """Map each job with an open allocation to the key of the model that it loads; jobs that load none are absent."""
    key = Job.requirement["model"].as_string()
    rows = connection.execute(sa.select(Job.id, key).join(Allocation, Allocation.job_id == Job.id).where(_IS_OPEN))
    return {job_id: model for job_id, model in rows if model}


def list_overdue(connection: Connection, *, now: int, limit: int) -> list[AllocationRecord]:
    """Return up to `limit` allocations that were not claimed or renewed in time, earliest deadline first."""
    query = sa.select(Allocation.__table__).where(_IS_OPEN, Allocation.deadline < now)
    rows = connection.execute(query.order_by(Allocation.deadline).limit(limit))
    return [AllocationRecord(**row._mapping) for row in rows]


def update(
    connection: Connection, attempt_id: str, changes: Mapping[str, Any], *, worker_id: str | None = None
) -> bool:
    """Change the open allocations of an attempt, on all workers or one; return whether there were any."""
    statement = sa.update(Allocation).where(Allocation.attempt_id == attempt_id, _IS_OPEN)
    if worker_id is not None:
        statement = statement.where(Allocation.worker_id == worker_id)
    return connection.execute(statement.values(**changes)).rowcount > 0


def get_latest_unclaimed_deadline(connection: Connection, worker_id: str, *, until: int) -> int | None:
    """Return the latest deadline, up to `until`, of the open allocations that a worker has not claimed."""
    query = sa.select(sa.func.max(Allocation.deadline)).where(
        _IS_OPEN, Allocation.worker_id == worker_id, Allocation.claimed_at.is_(None), Allocation.deadline <= until
    )
    return connection.execute(query).scalar_one()
