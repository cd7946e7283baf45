"""Operations that users perform on existing jobs: read, cancel, pause, resume and retry."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.errors import ConflictError, NameTakenError, NotFoundError, UnknownCursorError, VersionConflictError
from jobs.records import ArtifactRecord, AttemptRecord, EventRecord, JobDetails, JobFilter, JobRecord
from jobs.repository import attempts, events, files, models, search
from jobs.repository import jobs as repository
from jobs.service.stored_specs import read_spec
from jobs.service.submission import make_pending_model
from jobs.service.transitions import apply_event, lock_job
from jobs.settings import Settings
from jobs.specs import PAUSABLE_KINDS
from jobs.state import Event, JobState

AnyJob = TypeVar("AnyJob", bound=JobRecord)


@dataclass(frozen=True, slots=True)
class JobKey:
    """The id of a job, and the project of the user who requests it; users see only jobs of their own project."""

    project_id: str
    job_id: str


def find(connection: Connection, keys: Sequence[JobKey]) -> list[JobDetails | NotFoundError]:
    """Read the jobs with these keys in one query; return one result per key."""
    found = repository.get_details(connection, {key.job_id for key in keys})
    return [_to_job_or_error(found.get(key.job_id), key) for key in keys]


def find_records(connection: Connection, keys: Sequence[JobKey]) -> list[JobRecord | NotFoundError]:
    """Read the jobs with these keys in one query, without specs and results; return one entry per key."""
    found = repository.get_many(connection, {key.job_id for key in keys})
    return [_to_job_or_error(found.get(key.job_id), key) for key in keys]


def get(connection: Connection, key: JobKey) -> JobDetails:
    """Read one job with its spec and result.

    Raises:
        NotFoundError: the project has no job with this id.
    """
    answer = find(connection, [key])[0]
    if isinstance(answer, NotFoundError):
        raise answer
    return answer


def list_page(
    connection: Connection, project_id: str, wanted: JobFilter, *, after: str | None, limit: int
) -> list[JobRecord]:
    """Return jobs of a project, newest first.

    Raises:
        UnknownCursorError: `after` is not a job of the project.
    """
    if after and not repository.exists(connection, project_id, after):
        raise UnknownCursorError(after)
    return search.list_page(connection, project_id, wanted, after=after, limit=limit)


def count(connection: Connection, project_id: str, wanted: JobFilter) -> dict[JobState, int]:
    """Return the number of a project's matching jobs in each state."""
    found = search.count_by_state(connection, project_id, wanted)
    return {state: found.get(state, 0) for state in JobState}


def check_version(job: JobRecord, versions: Collection[str] | None) -> None:
    """Check that the job has one of the versions that the client allows; None allows all.

    Raises:
        VersionConflictError: it has another version.
    """
    if versions is not None and str(job.version) not in versions:
        message = f"job {job.id} has changed: it is now {job.state}, at version {job.version}; read it again"
        raise VersionConflictError(message, param="If-Match")


def cancel(
    connection: Connection, key: JobKey, settings: Settings, *, versions: Collection[str] | None = None
) -> JobDetails:
    """Cancel a job: immediately if it is waiting, or through its worker if it is running.

    Cancelling twice is not an error.

    Raises:
        NotFoundError: there is no such job.
        VersionConflictError: the job's version is not one of `versions`.
        IllegalTransitionError: the job has already succeeded or failed.
    """
    job = lock_job(connection, key.job_id, key.project_id)
    check_version(job, versions)
    if job.state not in ("cancelling", "cancelled"):
        apply_event(connection, job, Event.CANCEL, now=now_ms(connection), settings=settings)
    return get(connection, key)


def retry(
    connection: Connection, key: JobKey, settings: Settings, *, versions: Collection[str] | None = None
) -> JobDetails:
    """Queue a failed or cancelled job again, with its full number of attempts.

    Raises:
        NotFoundError: there is no such job.
        VersionConflictError: the job's version is not one of `versions`.
        IllegalTransitionError: the job is neither failed nor cancelled.
        OutdatedSpecError: another version of the service accepted the job's spec, and this one does not.
        NameTakenError: another model has taken the name of its result in the meantime.
    """
    job = lock_job(connection, key.job_id, key.project_id)
    check_version(job, versions)
    now = now_ms(connection)
    apply_event(connection, job, Event.RETRY, now=now, settings=settings)
    spec = read_spec(get(connection, key))
    if spec.produces_model and not models.add(connection, make_pending_model(job.id, job.project_id, spec, now)):
        message = f"model {spec.output_name()!r} now exists; submit the job again with a different output_model"
        raise NameTakenError(message, param="output_model")
    return get(connection, key)


def pause(connection: Connection, key: JobKey, settings: Settings) -> JobDetails:
    """Pause a job until it is resumed; a running one saves a resume point first. Pausing twice is not an error.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: jobs of this kind cannot continue where they stopped.
        IllegalTransitionError: the job has ended, or is being cancelled.
    """
    job = lock_job(connection, key.job_id, key.project_id)
    if job.state not in (JobState.PAUSING, JobState.PAUSED):
        if job.kind not in PAUSABLE_KINDS:
            raise ConflictError(f"{job.kind} jobs cannot be paused; only {', '.join(sorted(PAUSABLE_KINDS))} jobs can")
        apply_event(connection, job, Event.PAUSE, now=now_ms(connection), settings=settings)
    return get(connection, key)


def resume(connection: Connection, key: JobKey, settings: Settings) -> JobDetails:
    """Resume a paused job. Resuming a waiting or running job is not an error.

    Raises:
        NotFoundError: there is no such job.
        IllegalTransitionError: the job has ended, or is being cancelled.
    """
    job = lock_job(connection, key.job_id, key.project_id)
    if job.state not in (JobState.QUEUED, JobState.DISPATCHED, JobState.RUNNING):
        apply_event(connection, job, Event.RESUME, now=now_ms(connection), settings=settings)
    return get(connection, key)


def list_events(
    connection: Connection, key: JobKey, *, after: int, limit: int, types: Sequence[str] = ()
) -> list[EventRecord]:
    """Return entries of the job's log after the sequence number `after`."""
    require_job(connection, key)
    return events.list_page(connection, key.job_id, after=after, limit=limit, types=types)


def list_attempts(connection: Connection, key: JobKey) -> list[AttemptRecord]:
    """Return all attempts at a job, oldest first."""
    require_job(connection, key)
    return attempts.list_for_job(connection, key.job_id)


def list_artifacts(connection: Connection, key: JobKey, *, after: str | None, limit: int) -> list[ArtifactRecord]:
    """Return the published files of a job.

    Raises:
        NotFoundError: there is no such job.
        UnknownCursorError: `after` is not an artifact of the job.
    """
    require_job(connection, key)
    if after and not files.artifact_exists(connection, key.job_id, after):
        raise UnknownCursorError(after)
    return files.list_artifacts(connection, key.job_id, after=after, limit=limit)


def get_artifact(connection: Connection, key: JobKey, path: str) -> ArtifactRecord:
    """Return one published file.

    Raises:
        NotFoundError: there is no such job or file.
    """
    require_job(connection, key)
    found = files.get_artifact(connection, key.job_id, path)
    if found is None:
        message = (
            f"job {key.job_id} has no artifact {path!r}; `GET /v1/jobs/{key.job_id}/artifacts` lists its artifacts"
        )
        raise NotFoundError(message, param="path")
    return found


def _to_job_or_error(job: AnyJob | None, key: JobKey) -> AnyJob | NotFoundError:
    return _build_unknown_job_error(key) if job is None or job.project_id != key.project_id else job


def require_job(connection: Connection, key: JobKey) -> None:
    """Check that the project has the job.

    Raises:
        NotFoundError: the project does not have this job.
    """
    if not repository.exists(connection, key.project_id, key.job_id):
        raise _build_unknown_job_error(key)


def _build_unknown_job_error(key: JobKey) -> NotFoundError:
    return NotFoundError(f"there is no job {key.job_id}; `GET /v1/jobs` lists your project's jobs")
