"""Operations that find a job's resume points and publish one as a model."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from jobs.artifacts import ArtifactStore, published_model_key
from jobs.artifacts.resume_points import ResumePoint, ResumePointModel, list_complete_resume_points
from jobs.database import now_ms
from jobs.errors import ConflictError, NameTakenError, NotFoundError
from jobs.identifiers import new_id
from jobs.records import ArtifactRecord, ModelRecord
from jobs.repository import files, models
from jobs.service import jobs
from jobs.service.jobs import JobKey
from jobs.service.transitions import lock_job
from jobs.service.unneeded import DAY_MS, DeletionReason, list_resumable_attempts, record_deletions


@dataclass(frozen=True, slots=True)
class Publication:
    """A resume point that is being published as a model.

    Attributes:
        name: Id of the model.
        point: The resume point.
        model: The model in the resume point.
        key: Key of the copied files in the artifact store.
    """

    name: str
    point: ResumePoint
    model: ResumePointModel
    key: str


def list_attempts_with_points(connection: Connection, key: JobKey) -> list[str]:
    """Return the ids of the attempts at a job whose resume points are kept, oldest first.

    Raises:
        NotFoundError: there is no such job.
    """
    tries = [attempt.id for attempt in jobs.list_attempts(connection, key) if attempt.claimed_at is not None]
    return list_resumable_attempts(connection, key.job_id, tries, due=now_ms(connection))


def find_resume_point(
    store: ArtifactStore, job_id: str, attempt_ids: Sequence[str], step: int
) -> tuple[ResumePoint, ResumePointModel]:
    """Return the resume point at a step, and the model in it; reads the store, so call it outside any transaction.

    Raises:
        NotFoundError: there is no such resume point; the message lists the existing ones.
        ConflictError: it was saved in shards, which cannot be turned into a model.
    """
    points = {point.step: point for point in list_complete_resume_points(store, job_id, attempt_ids)}
    point = points.get(step)
    if point is None:
        known = (
            f"it has resume points at steps {', '.join(map(str, points))}" if points else "it has none at the moment"
        )
        raise NotFoundError(f"job {job_id} has no resume point at step {step}; {known}", param="step")
    if point.model is None:
        message = (
            f"the resume point at step {step} was saved in shards and cannot become a model; retry the job to continue"
        )
        raise ConflictError(message, param="step")
    return point, point.model


def begin_publication(
    connection: Connection, key: JobKey, name: str | None, found: tuple[ResumePoint, ResumePointModel]
) -> Publication:
    """Prepare a publication; unless the copied files become a model, they are deleted after a day.

    Raises:
        NotFoundError: there is no such job.
        NameTakenError: a model with this name already exists.
    """
    lock_job(connection, key.job_id, key.project_id)
    point, model = found
    name = name or f"{key.job_id}-step-{point.step}"
    if models.get_many(connection, key.project_id, [name]):
        raise _build_name_taken_error(name)
    wanted = Publication(name, point, model, published_model_key(key.job_id, new_id("pub")))
    now = now_ms(connection)
    record_deletions(
        connection, [wanted.key], DeletionReason.UPLOAD, now=now, job_id=key.job_id, not_before=now + DAY_MS
    )
    return wanted


def copy_files(store: ArtifactStore, publication: Publication) -> None:
    """Copy the files of the model within the store; this can take a long time.

    Raises:
        ConflictError: training has replaced the resume point in the meantime.
    """
    wanted = publication.model.files
    try:
        for file in wanted:
            store.copy(f"{publication.point.key}/{file.path}", f"{publication.key}/{file.path}")
    except FileNotFoundError:
        message = f"the resume point at step {publication.point.step} was replaced by a new one; list the points again"
        raise ConflictError(message, param="step") from None


def publish(connection: Connection, key: JobKey, publication: Publication) -> ModelRecord:
    """Turn the copy into a model, with its files as artifacts of the job.

    Raises:
        NotFoundError: the job was deleted in the meantime.
        NameTakenError: the name was taken in the meantime.
    """
    job = lock_job(connection, key.job_id, key.project_id)
    now = now_ms(connection)
    record = ModelRecord(
        project_id=key.project_id,
        id=publication.name,
        kind=publication.model.kind,
        state="ready",
        base=job.source_model,
        job_id=job.id,
        path=None,
        key=publication.key,
        details=publication.model.details,
        created_at=now,
    )
    if not models.add(connection, record):
        raise _build_name_taken_error(publication.name)
    made = [
        ArtifactRecord(
            id=new_id("file"),
            job_id=job.id,
            attempt_id=publication.point.attempt_id,
            path=f"published/{publication.key.rpartition('/')[2]}/{file.path}",
            key=f"{publication.key}/{file.path}",
            bytes=file.bytes,
            sha256=file.sha256,
            created_at=now,
        )
        for file in publication.model.files
    ]
    files.add_artifacts(connection, made)
    return record


def discard_publication(connection: Connection, key: JobKey, publication: Publication) -> None:
    """Schedule the copied files for immediate deletion."""
    now = now_ms(connection)
    record_deletions(connection, [publication.key], DeletionReason.UPLOAD, now=now, job_id=key.job_id)


def _build_name_taken_error(name: str) -> NameTakenError:
    return NameTakenError(f"model {name!r} already exists; choose another id", param="id")
