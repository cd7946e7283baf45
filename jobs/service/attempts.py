"""What dispatcher, workers and reaper do with attempts. Every function checks the fencing token it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from jobs.artifacts import StoredFile, Workspace
from jobs.database import now_ms
from jobs.identifiers import new_id
from jobs.records import ArtifactRecord, AttemptRecord, FileRecord, JobRecord, ModelRecord
from jobs.repository import attempts, events, files, jobs, models
from jobs.service.transitions import advance
from jobs.settings import Settings
from jobs.specs import SPEC
from jobs.state import AttemptState, Event, JobState


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker needs to run an attempt: the job, and what its spec names, by field.

    `bases` are the models that named adapters were made for, under the adapter's field.
    """

    job: JobRecord
    attempt: AttemptRecord
    models: Mapping[str, ModelRecord]
    bases: Mapping[str, ModelRecord]
    files: Mapping[str, FileRecord]
    earlier_attempts: Sequence[str]


@dataclass(frozen=True, slots=True)
class ProducedModel:
    """The model among an attempt's artifacts: its folder within the output, and what is known of it."""

    folder: str
    kind: str
    details: Mapping[str, Any]


class Order(Enum):
    """What a worker learns when it renews a lease."""

    CONTINUE = auto()
    STOP = auto()  # a user cancelled the job
    ABANDON = auto()  # the attempt is no longer this worker's: whatever it does has no effect


def dispatch(connection: Connection, job_id: str, worker_id: str, settings: Settings) -> str | None:
    """Place a queued job on a worker; returns the attempt's id, or None if the job is no longer queued."""
    job = jobs.lock(connection, job_id)
    if job is None or job.state is not JobState.QUEUED:
        return None
    now = now_ms(connection)
    attempt = AttemptRecord(
        id=new_id("att"),
        job_id=job_id,
        number=job.attempt_count + 1,
        worker_id=worker_id,
        state=AttemptState.DISPATCHED,
        deadline=now + int(settings.pickup_seconds * 1000),
        dispatched_at=now,
        claimed_at=None,
        finished_at=None,
        error=None,
    )
    attempts.add(connection, attempt)
    changes = {"attempt_id": attempt.id, "attempt_count": attempt.number}
    reason = {"worker": worker_id, "attempt": attempt.number}
    advance(connection, job, Event.DISPATCH, now=now, settings=settings, changes=changes, reason=reason)
    return attempt.id


def claim(connection: Connection, attempt_id: str, worker_id: str, settings: Settings) -> Claim | None:
    """Take a dispatched attempt. None if it was taken, cancelled or given up before: then there is nothing to do."""
    held = _held(connection, attempt_id, worker_id, AttemptState.DISPATCHED)
    if held is None:
        return None
    job, attempt = held
    now = now_ms(connection)
    lease = {"claimed_at": now, "deadline": now + int(settings.lease_seconds * 1000)}
    advance(connection, job, Event.CLAIM, now=now, settings=settings, attempt_changes=lease)
    try:
        spec = SPEC.validate_python(dict(job.spec))
    except ValidationError as error:  # it was submitted to another version of the service
        message = f"this version does not accept the spec any more, submit it anew: {error}"
        end(connection, attempt_id, worker_id, Event.FAIL, settings, error={"code": "invalid_spec", "message": message})
        return None
    named = spec.model_references()
    found = models.get_many(connection, job.project_id, named.values())
    uploads = files.get_files(connection, job.project_id, spec.file_references().values())
    earlier = [other.id for other in attempts.of_job(connection, job.id) if other.id != attempt_id]
    by_field = {field: found[name] for field, name in named.items() if name in found}
    return Claim(
        job,
        attempt,
        by_field,
        _bases(connection, job.project_id, by_field),
        {field: uploads[name] for field, name in spec.file_references().items() if name in uploads},
        earlier,
    )


def look(connection: Connection, attempt_id: str, worker_id: str) -> Order:
    """What a renewal would answer, without renewing: a cheap read, for short intervals."""
    attempt = attempts.get(connection, attempt_id)
    if attempt is None or (attempt.worker_id, attempt.state) != (worker_id, AttemptState.RUNNING):
        return Order.ABANDON
    job = jobs.get_many(connection, [attempt.job_id])[attempt.job_id]
    return Order.STOP if job.state is JobState.CANCELLING else Order.CONTINUE


def has_succeeded(connection: Connection, attempt_id: str) -> bool:
    """Whether the attempt's success is recorded: for a worker that lost the answer to its commit."""
    attempt = attempts.get(connection, attempt_id)
    return attempt is not None and attempt.state == AttemptState.SUCCEEDED


def renew(
    connection: Connection,
    attempt_id: str,
    worker_id: str,
    settings: Settings,
    *,
    progress: Mapping[str, Any] | None = None,
    entries: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> Order:
    """Renew the lease, and record progress and log entries on the way."""
    attempt = attempts.get(connection, attempt_id)
    job = jobs.lock(connection, attempt.job_id) if attempt else None  # job before attempt, as everywhere: no deadlock
    now = now_ms(connection)
    deadline = now + int(settings.lease_seconds * 1000)
    if attempt is None or job is None or not attempts.extend(connection, attempt_id, worker_id, deadline):
        return Order.ABANDON
    if progress is not None:
        jobs.set_progress(connection, attempt.job_id, progress)
    events.append(connection, attempt.job_id, entries, attempt_id=attempt_id, now=now)
    return Order.STOP if job.state is JobState.CANCELLING else Order.CONTINUE


def succeed(
    connection: Connection,
    attempt_id: str,
    worker_id: str,
    settings: Settings,
    *,
    result: Mapping[str, Any],
    stored: Sequence[StoredFile],
    model: ProducedModel | None,
) -> bool:
    """Publish: artifacts, model and state become visible by this one transaction, or not at all.

    False if the attempt is no longer this worker's, or a user cancelled the job before.
    """
    held = _held(connection, attempt_id, worker_id, AttemptState.RUNNING)
    if held is None:
        return False
    job, _ = held
    now = now_ms(connection)
    changes = {"result": dict(result), "error": None} if job.state is JobState.RUNNING else {}
    if advance(connection, job, Event.SUCCEED, now=now, settings=settings, changes=changes) is not JobState.SUCCEEDED:
        return False
    prefix = Workspace(job.id, attempt_id).output
    files.add_artifacts(
        connection,
        [
            ArtifactRecord(
                id=new_id("art"),
                job_id=job.id,
                attempt_id=attempt_id,
                path=file.path,
                key=f"{prefix}/{file.path}",
                bytes=file.bytes,
                sha256=file.sha256,
                created_at=now,
            )
            for file in stored
        ],
    )
    if model is not None:
        key = f"{prefix}/{model.folder}"
        made = {
            "state": "ready",
            "kind": model.kind,
            "key": key,
            "details": dict(model.details),
            "created_at": now,
        }
        models.update_of_job(connection, job.id, made)
    return True


def end(
    connection: Connection,
    attempt_id: str,
    worker_id: str,
    event: Event,
    settings: Settings,
    *,
    error: Mapping[str, Any] | None = None,
) -> JobState | None:
    """End a running attempt by fail, stumble, stop or release; None if it is no longer this worker's."""
    held = _held(connection, attempt_id, worker_id, AttemptState.RUNNING)
    if held is None:
        return None
    return _give_up(connection, held[0], event, settings, error)


def give_up_overdue(connection: Connection, attempt: AttemptRecord, settings: Settings) -> JobState | None:
    """End an attempt whose time is over as expired or lost; None if it was renewed or ended meanwhile."""
    job = jobs.lock(connection, attempt.job_id)
    fresh = attempts.get(connection, attempt.id)
    if job is None or fresh is None or job.attempt_id != attempt.id or fresh.state not in attempts.OPEN:
        return None
    if fresh.deadline >= now_ms(connection):
        return None
    if fresh.state == AttemptState.DISPATCHED:
        return _give_up(connection, job, Event.EXPIRE, settings, None)
    message = f"worker {fresh.worker_id} stopped reporting (killed, or its machine is down)"
    return _give_up(connection, job, Event.LOSE, settings, {"code": "worker_lost", "message": message})


def take_back(connection: Connection, attempt_id: str, settings: Settings) -> None:
    """Queue a job again whose message could not be sent."""
    attempt = attempts.get(connection, attempt_id)
    job = jobs.lock(connection, attempt.job_id) if attempt else None
    if job and job.attempt_id == attempt_id and job.state is JobState.DISPATCHED:
        _give_up(connection, job, Event.EXPIRE, settings, None)


def _bases(connection: Connection, project_id: str, named: Mapping[str, ModelRecord]) -> dict[str, ModelRecord]:
    wanted = {field: model.base for field, model in named.items() if model.kind == "adapter" and model.base}
    found = models.get_many(connection, project_id, wanted.values()) if wanted else {}
    return {field: found[base] for field, base in wanted.items() if base in found}


def _give_up(
    connection: Connection, job: JobRecord, event: Event, settings: Settings, error: Mapping[str, Any] | None
) -> JobState:
    changes: dict[str, Any] = {}
    if error is not None:
        changes["error"] = dict(error)
    return advance(
        connection,
        job,
        event,
        now=now_ms(connection),
        settings=settings,
        changes=changes,
        attempt_changes={"error": dict(error)} if error is not None else {},
        reason={"error": dict(error)} if error is not None else {},
    )


def _held(
    connection: Connection, attempt_id: str, worker_id: str, state: AttemptState
) -> tuple[JobRecord, AttemptRecord] | None:
    """The job and the attempt, locked, if this worker holds the attempt in this state."""
    attempt = attempts.get(connection, attempt_id)
    job = jobs.lock(connection, attempt.job_id) if attempt else None
    fresh = attempts.get(connection, attempt_id)
    if job is None or fresh is None or job.attempt_id != attempt_id:
        return None
    return (job, fresh) if (fresh.worker_id, fresh.state) == (worker_id, state) else None
