"""Workers: what they offer, and whether they are alive."""

from dataclasses import replace

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.errors import UnknownCursorError
from jobs.records import WorkerRecord
from jobs.repository import workers
from jobs.settings import Settings

MISSED_HEARTBEATS = 3


def report(connection: Connection, worker: WorkerRecord) -> None:
    """A worker's sign of life; `seen_at` is set here, by the database's clock."""
    workers.save(connection, replace(worker, seen_at=now_ms(connection)))


def leave(connection: Connection, worker_id: str) -> None:
    """A worker says good-bye."""
    workers.set_state(connection, worker_id, "gone", now=now_ms(connection))


def alive(connection: Connection, settings: Settings) -> list[WorkerRecord]:
    """Workers that reported within the last few heartbeats."""
    since = now_ms(connection) - int(MISSED_HEARTBEATS * settings.heartbeat_seconds * 1000)
    return workers.seen_since(connection, since)


def alive_after(connection: Connection, settings: Settings, after: str | None) -> list[WorkerRecord]:
    """Workers that are alive in the order of their ids, those behind `after`.

    Raises:
        UnknownCursorError: no worker with the id `after` has ever reported.
    """
    if after and not workers.exists(connection, after):
        raise UnknownCursorError(after)
    found = sorted(alive(connection, settings), key=lambda worker: worker.id)  # databases may sort differently
    return [worker for worker in found if worker.id > (after or "")]
