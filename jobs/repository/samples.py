"""Queries on the `worker_samples` and `usage` tables."""

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database import insert
from jobs.database.tables import ApiKey, Usage, WorkerSample
from jobs.records import UsageRecord, WorkerRecord, WorkerSampleRecord


def add(connection: Connection, worker: WorkerRecord) -> None:
    """Insert a worker's report; a second one within the same millisecond is ignored."""
    row = {"worker_id": worker.id, "at": worker.seen_at, "devices": worker.devices, "host": dict(worker.host)}
    connection.execute(insert(connection, WorkerSample).values(**row).on_conflict_do_nothing())


def list_since(connection: Connection, worker_id: str, since: int) -> list[WorkerSampleRecord]:
    """Return a worker's samples taken at or after `since`, oldest first."""
    query = sa.select(WorkerSample.at, WorkerSample.devices, WorkerSample.host).where(
        WorkerSample.worker_id == worker_id, WorkerSample.at >= since
    )
    return [WorkerSampleRecord(*row) for row in connection.execute(query.order_by(WorkerSample.at))]


def remove_before(connection: Connection, time: int) -> None:
    """Delete all workers' samples that were taken before `time`."""
    connection.execute(sa.delete(WorkerSample).where(WorkerSample.at < time))


def list_usage(connection: Connection, project_id: str, *, from_day: int) -> list[UsageRecord]:
    """Return the daily usage of a project's keys, oldest first."""
    query = (
        sa.select(Usage.day, Usage.key_id, ApiKey.name, Usage.jobs, Usage.device_ms, Usage.tokens)
        .outerjoin(ApiKey, ApiKey.id == Usage.key_id)
        .where(Usage.project_id == project_id, Usage.day >= from_day)
        .order_by(Usage.day, Usage.key_id)
    )
    return [
        UsageRecord(row.day, row.key_id or None, row.name or "", row.jobs, row.device_ms, row.tokens)
        for row in connection.execute(query)
    ]
