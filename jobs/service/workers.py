"""Workers: what they offer, whether they are alive, and draining."""

from dataclasses import replace

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.errors import NotFoundError, UnknownCursorError
from jobs.records import WorkerRecord
from jobs.repository import samples, workers
from jobs.settings import Settings

MISSED_HEARTBEATS = 3


def report(connection: Connection, worker: WorkerRecord) -> None:
    """Record a worker's sign of life; `seen_at` is set here, by the database's clock."""
    reported = replace(worker, seen_at=now_ms(connection))
    workers.save(connection, reported)
    samples.add(connection, reported)


def leave(connection: Connection, worker_id: str) -> None:
    """Record that a worker has said good-bye."""
    workers.set_state(connection, worker_id, "gone", now=now_ms(connection))


def list_alive(connection: Connection, settings: Settings) -> list[WorkerRecord]:
    """Return the workers that reported within the last few heartbeats."""
    since = now_ms(connection) - int(MISSED_HEARTBEATS * settings.heartbeat_seconds * 1000)
    return workers.seen_since(connection, since)


def list_alive_after(connection: Connection, settings: Settings, after: str | None) -> list[WorkerRecord]:
    """Return the workers that are alive in the order of their ids, from behind `after`.

    Raises:
        UnknownCursorError: no worker with the id `after` has ever reported.
    """
    if after and not workers.exists(connection, after):
        raise UnknownCursorError(after)
    found = sorted(list_alive(connection, settings), key=lambda worker: worker.id)  # databases may sort differently
    return [worker for worker in found if worker.id > (after or "")]


def drain(connection: Connection, worker_id: str, deadline_seconds: float | None, settings: Settings) -> WorkerRecord:
    """Give a worker no more jobs; what it still runs after `deadline_seconds` must yield (never, if that is None).

    Raises:
        NotFoundError: no worker of this id is alive.
    """
    now = now_ms(connection)
    at = NEVER if deadline_seconds is None else now + int(deadline_seconds * 1000)
    return _set_drain_time(connection, worker_id, at, settings)


def undrain(connection: Connection, worker_id: str, settings: Settings) -> WorkerRecord:
    """Let a drained worker take jobs again.

    Raises:
        NotFoundError: no worker of this id is alive.
    """
    return _set_drain_time(connection, worker_id, None, settings)


# A drain time that never comes: the year 5138.
NEVER = 10**14


def _set_drain_time(connection: Connection, worker_id: str, at: int | None, settings: Settings) -> WorkerRecord:
    workers.set_drain_time(connection, worker_id, at)
    for worker in list_alive(connection, settings):
        if worker.id == worker_id:
            return worker
    raise NotFoundError(
        f"no worker {worker_id!r} is running; `GET /v1/workers` lists those that are", param="worker_id"
    )
