"""Operations on workers: record their reports, list those that are alive, and drain them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.errors import NotFoundError, UnknownCursorError
from jobs.records import Json, WorkerRecord
from jobs.repository import models, samples, workers
from jobs.scheduling import find_source
from jobs.settings import Settings

MAX_MISSED_HEARTBEATS = 3


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """The reply to a worker's heartbeat.

    Attributes:
        is_drained: Whether an administrator is draining the worker, which must then not keep models loaded.
        obsolete_models: Keys of loaded models that were deleted or replaced.
    """

    is_drained: bool
    obsolete_models: frozenset[str]


def record_heartbeat(connection: Connection, worker: WorkerRecord) -> HeartbeatReply:
    """Record a worker's heartbeat; `seen_at` is set here from the database's clock."""
    reported = replace(worker, seen_at=now_ms(connection))
    workers.save(connection, reported)
    samples.add(connection, reported)
    is_drained = workers.get_drain_deadline(connection, worker.id) is not None
    return HeartbeatReply(is_drained, _list_obsolete_models(connection, worker.models))


def _list_obsolete_models(connection: Connection, loaded: Sequence[Json]) -> frozenset[str]:
    """Return the keys of loaded models whose files no longer belong to a model that jobs can name."""
    obsolete = set()
    for each in loaded:
        names = {each["id"]: each["source"]} | ({each["adapter"]: each["adapter_source"]} if each["adapter"] else {})
        found = models.get_many(connection, each["project_id"], names)
        if any(name not in found or find_source(found[name]) not in ("", source) for name, source in names.items()):
            obsolete.add(each["key"])
    return frozenset(obsolete)


def sign_off(connection: Connection, worker_id: str) -> None:
    """Record that a worker has signed off."""
    workers.set_state(connection, worker_id, "gone", now=now_ms(connection))


def list_alive(connection: Connection, settings: Settings) -> list[WorkerRecord]:
    """Return the workers that reported within the last few heartbeat intervals."""
    since = now_ms(connection) - int(MAX_MISSED_HEARTBEATS * settings.heartbeat_seconds * 1000)
    return workers.list_seen_since(connection, since)


def list_alive_after(connection: Connection, settings: Settings, after: str | None) -> list[WorkerRecord]:
    """Return the live workers whose ids come after `after`, sorted by id.

    Raises:
        UnknownCursorError: no worker with the id `after` has ever reported.
    """
    if after and not workers.exists(connection, after):
        raise UnknownCursorError(after)
    # Sort here, because SQLite and PostgreSQL may sort ids differently.
    found = sorted(list_alive(connection, settings), key=lambda worker: worker.id)
    return [worker for worker in found if worker.id > (after or "")]


def drain(connection: Connection, worker_id: str, deadline_seconds: float | None, settings: Settings) -> WorkerRecord:
    """Drain a worker: it gets no more jobs, and jobs still running after `deadline_seconds` must yield (None: never).

    Raises:
        NotFoundError: no worker with this id is alive.
    """
    now = now_ms(connection)
    at = NO_DRAIN_DEADLINE_MS if deadline_seconds is None else now + int(deadline_seconds * 1000)
    return _set_drain_deadline(connection, worker_id, at, settings)


def undrain(connection: Connection, worker_id: str, settings: Settings) -> WorkerRecord:
    """Allow a drained worker to take jobs again.

    Raises:
        NotFoundError: no worker with this id is alive.
    """
    return _set_drain_deadline(connection, worker_id, None, settings)


# Stored for a worker that is drained without a deadline: a time in the year 5138.
NO_DRAIN_DEADLINE_MS = 10**14


def _set_drain_deadline(connection: Connection, worker_id: str, at: int | None, settings: Settings) -> WorkerRecord:
    workers.set_drain_deadline(connection, worker_id, at)
    for worker in list_alive(connection, settings):
        if worker.id == worker_id:
            return worker
    raise NotFoundError(
        f"no worker {worker_id!r} is running; `GET /v1/workers` lists the running workers", param="worker_id"
    )
