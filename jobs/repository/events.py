"""Queries on the `events` table."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.journal import add_to_feed
from jobs.database.tables import Job, JobEvent
from jobs.records import EventRecord, JobRecord

Entry = tuple[str, Mapping[str, Any]]
_COLUMNS = [getattr(JobEvent, field.name) for field in fields(EventRecord)]


def append(
    connection: Connection,
    job_id: str,
    entries: Sequence[Entry],
    *,
    attempt_id: str | None,
    now: int,
) -> None:
    """Append (type, data) entries to the job's log; the job's row counts the entries and lines.

    State changes and new lines are also added to the project's feed; progress is added where it is recorded.
    """
    if not entries:
        return
    lines = [len(data["lines"]) if kind == "log" else 0 for kind, data in entries]
    counted = sa.update(Job).where(Job.id == job_id)
    counted = counted.values(last_event=Job.last_event + len(entries), log_lines=Job.log_lines + sum(lines))
    job = connection.execute(counted.returning(Job.last_event, Job.log_lines, Job.project_id, Job.kind)).one()
    first_lines = [job.log_lines - sum(lines[position:]) + 1 for position in range(len(entries))]
    _insert(
        connection,
        [
            _build_row(
                job_id, job.last_event - len(entries) + number, entry, attempt_id, now, first_line if count else None
            )
            for number, (entry, first_line, count) in enumerate(zip(entries, first_lines, lines, strict=True), start=1)
        ],
    )
    for kind, data in entries:
        if kind == "state":
            add_to_feed(connection, job.project_id, job_id, "state", {**data, "kind": job.kind}, now=now)
    if any(lines):
        printed = {"first_line": first_lines[0], "last_line": job.log_lines}
        add_to_feed(connection, job.project_id, job_id, "log", printed, now=now)


def append_to_all(connection: Connection, jobs: Sequence[JobRecord], entry: Entry, *, now: int) -> None:
    """Append the same entry, without output lines, to the logs of several jobs that no worker is running."""
    counted = sa.update(Job).where(Job.id.in_([job.id for job in jobs])).values(last_event=Job.last_event + 1)
    sequences = {row.id: row.last_event for row in connection.execute(counted.returning(Job.id, Job.last_event))}
    _insert(connection, [_build_row(job.id, sequences[job.id], entry, None, now) for job in jobs])
    for job in jobs:
        add_to_feed(connection, job.project_id, job.id, "state", {**entry[1], "kind": job.kind}, now=now)


def insert_first(connection: Connection, jobs: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> None:
    """Insert the first events of new jobs, whose rows already have `last_event` set to 1."""
    _insert(connection, [_build_row(job["id"], 1, ("state", data), None, job["created_at"]) for job in jobs])
    for job in jobs:
        told = {**data, "kind": job["kind"]}
        add_to_feed(connection, job["project_id"], job["id"], "state", told, now=job["created_at"])


def list_page(
    connection: Connection, job_id: str, *, after: int, limit: int, types: Sequence[str] = ()
) -> list[EventRecord]:
    """Return up to `limit` events of a job with a sequence number above `after`, oldest first."""
    query = sa.select(*_COLUMNS).where(JobEvent.job_id == job_id, JobEvent.sequence > after)
    if types:
        query = query.where(JobEvent.type.in_(types))
    rows = connection.execute(query.order_by(JobEvent.sequence).limit(limit))
    return [EventRecord(**row._mapping) for row in rows]


def list_page_backwards(
    connection: Connection, job_id: str, *, before: int | None, limit: int, types: Sequence[str]
) -> list[EventRecord]:
    """Return up to `limit` events of a job with a sequence number below `before`, newest first."""
    query = sa.select(*_COLUMNS).where(JobEvent.job_id == job_id, JobEvent.type.in_(types))
    if before is not None:
        query = query.where(JobEvent.sequence < before)
    rows = connection.execute(query.order_by(JobEvent.sequence.desc()).limit(limit))
    return [EventRecord(**row._mapping) for row in rows]


def _build_row(
    job_id: str, sequence: int, entry: Entry, attempt_id: str | None, now: int, first_line: int | None = None
) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "sequence": sequence,
        "attempt_id": attempt_id,
        "type": entry[0],
        "data": dict(entry[1]),
        "created_at": now,
        "first_line": first_line,
    }


def _insert(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    connection.execute(sa.insert(JobEvent), list(rows))
