"""Queries on the `workers` and `leases` tables."""

from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database import insert
from jobs.database.tables import Lease, Worker
from jobs.records import WorkerRecord

_SELECT_SEEN_SINCE = (
    sa.select(Worker.__table__)
    .where(Worker.seen_at >= sa.bindparam("since"), Worker.state != "gone")
    .order_by(Worker.id)
)


def save(connection: Connection, worker: WorkerRecord) -> None:
    """Insert a worker or update its report."""
    values = {name: value for name, value in asdict(worker).items() if name != "drain_at"}
    statement = insert(connection, Worker).values(**values)
    connection.execute(statement.on_conflict_do_update(index_elements=[Worker.id], set_=values))


def set_state(connection: Connection, worker_id: str, state: str, *, now: int) -> None:
    """Set the state of a worker: active, draining or gone."""
    connection.execute(sa.update(Worker).where(Worker.id == worker_id).values(state=state, seen_at=now))


def set_drain_deadline(connection: Connection, worker_id: str, drain_at: int | None) -> bool:
    """Set or clear the time by which a worker must release its jobs; return whether the worker exists."""
    statement = sa.update(Worker).where(Worker.id == worker_id).values(drain_at=drain_at)
    return connection.execute(statement).rowcount == 1


def get_drain_deadline(connection: Connection, worker_id: str) -> int | None:
    """Return the time by which a worker must release its jobs, if an administrator is draining it."""
    return connection.execute(sa.select(Worker.drain_at).where(Worker.id == worker_id)).scalar_one_or_none()


def list_seen_since(connection: Connection, since: int) -> list[WorkerRecord]:
    """Return the workers that reported at or after `since` and have not signed off."""
    return [WorkerRecord(**row._mapping) for row in connection.execute(_SELECT_SEEN_SINCE, {"since": since})]


def exists(connection: Connection, worker_id: str) -> bool:
    """Whether a worker with this id has ever reported."""
    return connection.execute(sa.select(Worker.id).where(Worker.id == worker_id)).first() is not None


def hold_lease(connection: Connection, name: str, holder: str, *, now: int, expires_at: int) -> bool:
    """Take or renew a lease; return False if another holder has it and it has not expired.

    A lease that ends impossibly late was taken before the clock was set back; its holder may have died long ago.
    """
    too_late = expires_at + (expires_at - now)
    statement = (
        insert(connection, Lease)
        .values(name=name, holder=holder, expires_at=expires_at)
        .on_conflict_do_update(
            index_elements=[Lease.name],
            set_={"holder": holder, "expires_at": expires_at},
            where=sa.or_(Lease.holder == holder, Lease.expires_at < now, Lease.expires_at > too_late),
        )
        .returning(Lease.holder)
    )
    return connection.execute(statement).first() is not None


def get_lease_holder(connection: Connection, name: str, *, now: int) -> str | None:
    """Return the holder of the unexpired lease with this name."""
    query = sa.select(Lease.holder).where(Lease.name == name, Lease.expires_at >= now)
    return connection.execute(query).scalar_one_or_none()


def get_lease(connection: Connection, name: str) -> tuple[str, int] | None:
    """Return the holder of a lease and its expiry time; None if nobody has it."""
    row = connection.execute(sa.select(Lease.holder, Lease.expires_at).where(Lease.name == name)).first()
    return (row.holder, row.expires_at) if row else None


def release_lease(connection: Connection, name: str, holder: str) -> None:
    """Release a lease, so that a standby does not have to wait for it to expire."""
    connection.execute(sa.delete(Lease).where(Lease.name == name, Lease.holder == holder))
