"""The only code that changes the state of jobs."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.database.journal import add_usage
from jobs.errors import IllegalTransitionError, NotFoundError
from jobs.records import JobRecord
from jobs.repository import allocations, attempts, events, jobs, models, search
from jobs.service.unneeded import keep_resume_points, schedule_unneeded_deletions
from jobs.settings import Settings
from jobs.state import EVENTS_COUNTED_AS_ATTEMPT, Event, JobState, Transition, find_transition


def lock_job(connection: Connection, job_id: str, project_id: str | None = None) -> JobRecord:
    """Lock the job until the transaction ends, and return it.

    Raises:
        NotFoundError: the project has no job with this id.
    """
    job = jobs.lock(connection, job_id)
    if job is None or project_id not in (None, job.project_id):
        raise NotFoundError(f"there is no job {job_id}; `GET /v1/jobs` lists your project's jobs", param="job_id")
    return job


def apply_event(
    connection: Connection,
    job: JobRecord,
    event: Event,
    *,
    now: int,
    settings: Settings,
    changes: Mapping[str, Any] | None = None,
    attempt_changes: Mapping[str, Any] | None = None,
    reason: Mapping[str, Any] | None = None,
) -> JobState:
    """Apply an event to a job that the caller has locked; update its attempt, its reserved name and its log as well.

    Raises:
        IllegalTransitionError: the table has no such transition, or another transaction was faster.
    """
    row = find_transition(job.state, event, attempts_left=job.has_attempts_left)
    columns = {**_build_column_changes(job, row, now, settings), **(changes or {})}
    if not jobs.compare_and_set(connection, job.id, row.source, row.target, columns):
        raise IllegalTransitionError(f"job {job.id} is no longer {row.source}")
    attempt_id = columns.get("attempt_id") or job.attempt_id
    if row.attempt and attempt_id:
        ended = {} if row.attempt in attempts.OPEN_STATES else {"finished_at": now}
        if ended:
            used_ms = attempts.get_device_ms(connection, attempt_id, now=now)
            add_usage(connection, job.project_id, job.key_id, now=now, device_ms=used_ms)
        attempts.update(connection, attempt_id, {"state": row.attempt, **ended, **(attempt_changes or {})})
        if ended:
            allocations.update(connection, attempt_id, {"deadline": None})
    if columns.get("error", job.error) != job.error:
        search.set_error(connection, job.id, columns["error"])
    if row.target.is_final and row.target is not JobState.SUCCEEDED:
        models.drop_pending(connection, [job.id])
    if row.event is Event.RETRY:
        keep_resume_points(connection, job.id)
    ended_attempt = attempt_id if row.attempt and row.attempt not in attempts.OPEN_STATES else None
    schedule_unneeded_deletions(connection, job.id, row.target, ended_attempt, now=now, settings=settings)
    data = {"from": row.source, "to": row.target, "event": event, **(reason or {})}
    events.append(connection, job.id, [("state", data)], attempt_id=attempt_id, now=now)
    return row.target


def cancel_waiting(connection: Connection, waiting: Sequence[JobRecord], *, now: int, settings: Settings) -> None:
    """Cancel queued jobs that the caller has locked, in bulk rather than one by one."""
    if not waiting:
        return
    row, ids = find_transition(JobState.QUEUED, Event.CANCEL), [job.id for job in waiting]
    columns = {"finished_at": now, "waiting": None}
    if jobs.compare_and_set_all(connection, ids, row.source, row.target, columns) != len(ids):
        raise IllegalTransitionError("one of the jobs is no longer queued")
    models.drop_pending(connection, ids)
    for job in waiting:
        if job.attempt_count:  # a job without attempts has never written any files
            schedule_unneeded_deletions(connection, job.id, row.target, None, now=now, settings=settings)
    data = {"from": row.source, "to": row.target, "event": row.event}
    events.append_to_all(connection, waiting, ("state", data), now=now)


def end_attempt(
    connection: Connection, job: JobRecord, event: Event, settings: Settings, *, error: Mapping[str, Any] | None = None
) -> JobState:
    """End the current attempt of a locked job without a result; return the job's new state."""
    described = {} if error is None else {"error": dict(error)}
    return apply_event(
        connection,
        job,
        event,
        now=now_ms(connection),
        settings=settings,
        changes=described,
        attempt_changes=described,
        reason=described,
    )


def _build_column_changes(job: JobRecord, row: Transition, now: int, settings: Settings) -> dict[str, Any]:
    """Return the column changes that follow from the transition itself."""
    columns: dict[str, Any] = {} if job.waiting is None else {"waiting": None}
    charged = job.charged_attempts + (1 if row.event in EVENTS_COUNTED_AS_ATTEMPT else 0)
    columns["charged_attempts"] = charged
    if row.target.is_final:
        columns["finished_at"] = now
    if row.target is JobState.PAUSED:
        columns["attempt_id"] = None
    if row.event is Event.CLAIM and job.started_at is None:
        columns["started_at"] = now
    if row.target is JobState.QUEUED:
        wait_ms = _compute_backoff_ms(charged, row.event, settings)
        columns |= {"attempt_id": None, "not_before": now + wait_ms, "waiting": _explain_backoff(wait_ms, charged)}
    if row.event is Event.RETRY:
        columns |= {
            "charged_attempts": 0,
            "error": None,
            "progress": None,
            "started_at": None,
            "finished_at": None,
        }
    return columns


def _explain_backoff(wait_ms: int, charged: int) -> dict[str, Any] | None:
    """Explain why a job that was just requeued is waiting; return None if it has no back-off."""
    if wait_ms == 0:
        return None
    message = f"waits {wait_ms / 1000:g} s before the next attempt; failed attempts so far: {charged}"
    return {"cause": "backoff", "message": message, "worker_id": None, "free_bytes": None, "holders": []}


def _compute_backoff_ms(charged: int, event: Event, settings: Settings) -> int:
    """Return how many milliseconds a requeued job waits; the time doubles with every counted attempt."""
    if event not in EVENTS_COUNTED_AS_ATTEMPT:
        return 0
    seconds = min(settings.backoff_limit_seconds, settings.backoff_seconds * 2.0 ** (charged - 1))
    return int(seconds * 1000)
