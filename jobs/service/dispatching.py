"""Operations of the dispatcher and the reaper: begin attempts, requeue jobs, and end overdue attempts."""

from dataclasses import asdict

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.identifiers import new_id
from jobs.records import AllocationRecord, AttemptRecord, JobRecord
from jobs.repository import attempts, jobs
from jobs.scheduling import Placement
from jobs.service.transitions import apply_event, end_attempt
from jobs.settings import Settings
from jobs.state import AttemptState, Event, JobState


def dispatch_job(connection: Connection, placement: Placement, settings: Settings) -> str | None:
    """Begin an attempt at a queued job; return the attempt's id, or None if the job is no longer queued."""
    job = jobs.lock(connection, placement.job_id)
    if job is None or job.state is not JobState.QUEUED:
        return None
    now = now_ms(connection)
    attempt = _build_attempt(job, placement, now, int(settings.pickup_seconds * 1000))
    attempts.add(connection, attempt)
    changes = {"attempt_id": attempt.id, "attempt_count": attempt.number}
    workers = [node.worker_id for node in placement.nodes]
    reason = {"worker": workers[0], "workers": workers, "attempt": attempt.number}
    apply_event(connection, job, Event.DISPATCH, now=now, settings=settings, changes=changes, reason=reason)
    return attempt.id


def requeue_job(connection: Connection, attempt_id: str, settings: Settings) -> None:
    """Queue a job again because its message could not be sent."""
    attempt = attempts.get(connection, attempt_id)
    job = jobs.lock(connection, attempt.job_id) if attempt else None
    if job and job.attempt_id == attempt_id and job.state is JobState.DISPATCHED:
        end_attempt(connection, job, Event.EXPIRE, settings)


def end_overdue_attempt(connection: Connection, late: AllocationRecord, settings: Settings) -> JobState | None:
    """End the attempt of an overdue allocation; return None if it has been renewed or has ended in the meantime.

    An attempt that not all of its workers have claimed expires; one that has begun is lost.
    """
    job = jobs.lock(connection, late.job_id)
    if job is None or job.attempt_id != late.attempt_id:
        return None
    now, attempt = now_ms(connection), attempts.get_with_allocations(connection, late.attempt_id)
    overdue = [place for place in attempt.allocations if place.deadline is not None and place.deadline < now]
    if attempt.state not in attempts.OPEN_STATES or not overdue:
        return None
    if attempt.state == AttemptState.DISPATCHED:
        return end_attempt(connection, job, Event.EXPIRE, settings)
    silent = " and ".join(sorted({place.worker_id for place in overdue}))
    message = f"worker {silent} stopped reporting (the process was killed, or the machine is down)"
    return end_attempt(connection, job, Event.LOSE, settings, error={"code": "worker_lost", "message": message})


def _build_attempt(job: JobRecord, placement: Placement, now: int, pickup_ms: int) -> AttemptRecord:
    attempt_id = new_id("att")
    places = tuple(
        AllocationRecord(
            attempt_id=attempt_id,
            node=number,
            job_id=job.id,
            worker_id=node.worker_id,
            devices=[asdict(reservation) for reservation in node.devices],
            host_bytes=node.host_bytes,
            exclusive=placement.exclusive,
            claimed_at=None,
            deadline=now + pickup_ms,
        )
        for number, node in enumerate(placement.nodes)
    )
    return AttemptRecord(
        id=attempt_id,
        job_id=job.id,
        number=job.attempt_count + 1,
        worker_id=places[0].worker_id,
        state=AttemptState.DISPATCHED,
        dispatched_at=now,
        claimed_at=None,
        finished_at=None,
        error=None,
        allocations=places,
    )
