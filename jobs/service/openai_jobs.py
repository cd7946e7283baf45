"""Operations on jobs that only the OpenAI-compatible routes need."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.errors import InvalidRequestError, NotFoundError, UnknownCursorError, UnknownFileError
from jobs.records import ArtifactRecord, EventRecord, FileRecord, JobDetails, JobFilter
from jobs.repository import events, files, models, removal
from jobs.repository import jobs as repository
from jobs.service import jobs
from jobs.service.jobs import JobKey
from jobs.service.references import require_usable_file
from jobs.service.submission import Submission


@dataclass(frozen=True, slots=True)
class PublishedJob:
    """A job with the artifacts that it has published."""

    job: JobDetails
    artifacts: Sequence[ArtifactRecord]


def get(connection: Connection, key: JobKey, kind: str) -> PublishedJob:
    """Return a job of the given kind.

    Raises:
        NotFoundError: the project has no job with this id and kind.
    """
    found = jobs.get(connection, key)
    if found.kind != kind:
        raise NotFoundError(f"there is no {kind} job {key.job_id}", param="job_id")
    return _attach_artifacts(connection, [found])[0]


def list_page(
    connection: Connection, project_id: str, wanted: JobFilter, *, after: str | None, limit: int
) -> list[PublishedJob]:
    """Return jobs of a project with specs, results and artifacts, newest first.

    Raises:
        UnknownCursorError: `after` is not a job of the project.
    """
    found = jobs.list_page(connection, project_id, wanted, after=after, limit=limit)
    details = repository.get_details(connection, [job.id for job in found])
    return _attach_artifacts(connection, [details[job.id] for job in found if job.id in details])


def list_events(
    connection: Connection, key: JobKey, *, before: int | None, limit: int, types: Sequence[str]
) -> list[EventRecord]:
    """Return the newest events of a job, or the newest ones before a sequence number.

    Raises:
        NotFoundError: there is no such job.
    """
    jobs.get(connection, key)
    return events.list_page_backwards(connection, key.job_id, before=before, limit=limit, types=types)


def claim_retried_job(
    connection: Connection, submission: Submission, *, count: int, within_seconds: float
) -> JobDetails | None:
    """Return the job that an identical earlier request created, if this request is a retry of it.

    A job is returned at most once per retry count, so identical requests that are not retries create separate jobs.
    """
    since = now_ms(connection) - int(within_seconds * 1000)
    kind, digest = submission.spec.kind, submission.request_digest
    found = repository.find_by_digest(connection, submission.project_id, kind, digest, since=since)
    if found is None or found.openai is None or found.openai.get("repetition", 0) >= count:
        return None
    repository.set_openai_values(connection, found.id, {**found.openai, "repetition": count})
    return found


def require_valid_file(connection: Connection, project_id: str, file_id: str, param: str) -> FileRecord:
    """Return a file after checking that its content suits its purpose.

    Raises:
        UnknownFileError: the project has no file with this id.
        InvalidRequestError: its content does not suit its purpose.
    """
    found = files.get_files(connection, project_id, [file_id], now=now_ms(connection)).get(file_id)
    if found is None:
        raise UnknownFileError(f"there is no file {file_id}; upload it with `POST /v1/files`", param=param)
    require_usable_file(found, param)
    return found


def find_quantized_model(connection: Connection, project_id: str, name: str, quantization: str, param: str) -> str:
    """Return `name` if that model has this quantization, otherwise the newest model made from it that does.

    Raises:
        InvalidRequestError: there is no such model.
    """
    for model in (
        *models.get_many(connection, project_id, [name]).values(),
        *models.list_made_from(connection, project_id, name),
    ):
        if model.state == "ready" and model.details.get("quantization") == quantization:
            return model.id
    message = f"model {name!r} has no variant that is quantized as {quantization!r}; make one with a quantize job"
    raise InvalidRequestError(message, param=param)


def parse_event_id(job_id: str, after: str | None) -> int | None:
    """Return the sequence number in an event's id.

    Raises:
        UnknownCursorError: it is not the id of an event of this job.
    """
    if after is None:
        return None
    owner, _, number = after.rpartition(":")
    if owner != job_id or not number.isascii() or not number.isdecimal() or len(number) > 9:  # noqa: PLR2004 - fits SQL
        raise UnknownCursorError(after)
    return int(number)


def _attach_artifacts(connection: Connection, found: Sequence[JobDetails]) -> list[PublishedJob]:
    artifacts = removal.list_artifacts(connection, [job.id for job in found]) if found else []
    return [PublishedJob(job, [each for each in artifacts if each.job_id == job.id]) for job in found]
