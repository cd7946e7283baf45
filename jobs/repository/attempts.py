"""Queries on the `attempts` table."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.orm import aliased

from jobs.database.tables import Allocation, Attempt, Job, Worker
from jobs.records import CAPACITY_CAUSES, AttemptRecord
from jobs.repository import allocations
from jobs.state import AttemptState

OPEN_STATES = (AttemptState.DISPATCHED, AttemptState.RUNNING)

_WAITING_JOB = aliased(Job)
_OTHERS_WAIT = sa.exists().where(
    _WAITING_JOB.state == sa.literal_column("'queued'"),
    _WAITING_JOB.waiting["cause"].as_string().in_(CAPACITY_CAUSES),
)
# Executed several times per second for each attempt; building the statement once avoids most of the overhead in Python.
_SELECT_DIRECTIVE_INPUTS = (
    sa.select(Attempt.state, Job.state, Worker.drain_at, sa.case((Job.kind == "serve", _OTHERS_WAIT), else_=sa.false()))
    .join(Allocation, Allocation.attempt_id == Attempt.id)
    .join(Job, Job.id == Attempt.job_id)
    .outerjoin(Worker, Worker.id == Allocation.worker_id)
    .where(
        Attempt.id == sa.bindparam("attempt"),
        Allocation.worker_id == sa.bindparam("worker"),
        Allocation.deadline.is_not(None),
    )
)


def add(connection: Connection, attempt: AttemptRecord) -> None:
    """Insert a new attempt with its allocations."""
    connection.execute(
        sa.insert(Attempt).values(
            id=attempt.id,
            job_id=attempt.job_id,
            number=attempt.number,
            worker_id=attempt.worker_id,
            state=attempt.state,
            dispatched_at=attempt.dispatched_at,
        )
    )
    allocations.add(connection, attempt.allocations)


def get(connection: Connection, attempt_id: str) -> AttemptRecord | None:
    """Return the attempt with this id, without its allocations."""
    row = connection.execute(sa.select(Attempt.__table__).where(Attempt.id == attempt_id)).first()
    return AttemptRecord(**row._mapping) if row else None


@dataclass(frozen=True, slots=True)
class DirectiveInputs:
    """The state that determines which directive a worker gets for an attempt.

    Attributes:
        others_wait: Whether other jobs wait for resources; read only for serve jobs, which then end once they are idle.
    """

    attempt_state: str
    job_state: str
    drain_at: int | None
    others_wait: bool


def read_directive_inputs(connection: Connection, attempt_id: str, worker_id: str) -> DirectiveInputs | None:
    """Read the state of a worker's attempt without locks; return None if it has no open allocation."""
    row = connection.execute(_SELECT_DIRECTIVE_INPUTS, {"attempt": attempt_id, "worker": worker_id}).first()
    return DirectiveInputs(row[0], row[1], row[2], bool(row[3])) if row else None


def set_accepts_chats(connection: Connection, attempt_id: str, *, accepts: bool) -> None:
    """Record whether an attempt accepts chats."""
    connection.execute(sa.update(Attempt).where(Attempt.id == attempt_id).values(accepts_chats=accepts))


def get_with_allocations(connection: Connection, attempt_id: str) -> AttemptRecord:
    """Return an existing attempt with its allocations."""
    row = connection.execute(sa.select(Attempt.__table__).where(Attempt.id == attempt_id)).one()
    places = allocations.group_by_attempt(connection, [attempt_id])[attempt_id]
    return AttemptRecord(**row._mapping, allocations=tuple(places))


def list_for_job(connection: Connection, job_id: str) -> list[AttemptRecord]:
    """Return all attempts at a job with their allocations, oldest first."""
    query = sa.select(Attempt.__table__).where(Attempt.job_id == job_id).order_by(Attempt.number)
    found = [AttemptRecord(**row._mapping) for row in connection.execute(query)]
    places = allocations.group_by_attempt(connection, [attempt.id for attempt in found])
    return [replace(attempt, allocations=tuple(places[attempt.id])) for attempt in found]


def get_device_ms(connection: Connection, attempt_id: str, *, now: int) -> int:
    """Return the milliseconds since an attempt began, multiplied by the number of its reserved devices."""
    claimed_at = connection.execute(sa.select(Attempt.claimed_at).where(Attempt.id == attempt_id)).scalar_one()
    if claimed_at is None:
        return 0
    places = allocations.group_by_attempt(connection, [attempt_id])[attempt_id]
    return (now - claimed_at) * sum(len(place.devices) for place in places)


def update(connection: Connection, attempt_id: str, changes: Mapping[str, Any]) -> None:
    """Change columns of an attempt."""
    connection.execute(sa.update(Attempt).where(Attempt.id == attempt_id).values(**changes))
