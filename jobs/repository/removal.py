"""Queries that delete jobs, models and artifacts, and that find those that may be deleted."""

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import (
    Allocation,
    Artifact,
    Attempt,
    File,
    Job,
    JobEvent,
    JobLabel,
    JobSearch,
    MetricPoint,
    Model,
)
from jobs.records import ArtifactRecord, FileRecord, ModelRecord
from jobs.repository.uses import FINAL_STATES


def lock_model(connection: Connection, project_id: str, name: str) -> ModelRecord | None:
    """Lock and return a model, so that no submission can name it until the transaction ends."""
    query = sa.select(Model.__table__).where(Model.project_id == project_id, Model.id == name)
    row = connection.execute(query.with_for_update()).first()
    return ModelRecord(**row._mapping) if row else None


def lock_models_of_jobs(connection: Connection, job_ids: Collection[str]) -> list[ModelRecord]:
    """Lock and return the models that these jobs produced, so that no new submission can refer to them."""
    query = sa.select(Model.__table__).where(Model.job_id.in_(list(job_ids))).order_by(Model.id)
    return [ModelRecord(**row._mapping) for row in connection.execute(query.with_for_update())]


def lock_file(connection: Connection, file_id: str) -> None:
    """Lock a file, so that no submission can name it until the transaction ends."""
    connection.execute(sa.select(File.id).where(File.id == file_id).with_for_update())


def lock_finished_jobs(connection: Connection, job_ids: Collection[str]) -> dict[str, list[str]]:
    """Lock the jobs that are final, so that nobody can retry them, and return their ids by project."""
    query = sa.select(Job.project_id, Job.id).where(Job.id.in_(list(job_ids)), Job.state.in_(FINAL_STATES))
    found: dict[str, list[str]] = {}
    for row in connection.execute(query.order_by(Job.id).with_for_update()):
        found.setdefault(row.project_id, []).append(row.id)
    return found


def delete_jobs(connection: Connection, job_ids: Collection[str]) -> None:
    """Delete final jobs with all rows that refer to them."""
    for table in (Artifact, JobEvent, MetricPoint, Allocation, Attempt, JobLabel, JobSearch, Model):
        connection.execute(sa.delete(table).where(table.job_id.in_(list(job_ids))))
    connection.execute(sa.delete(Job).where(Job.id.in_(list(job_ids))))


def delete_model(connection: Connection, project_id: str, name: str) -> None:
    """Delete the row of a model."""
    connection.execute(sa.delete(Model).where(Model.project_id == project_id, Model.id == name))


def find_owning_model(connection: Connection, artifact: ArtifactRecord) -> str | None:
    """Return the model that an artifact belongs to, if any."""
    query = sa.select(Model.id, Model.key).where(Model.job_id == artifact.job_id, Model.key.is_not(None))
    return next((row.id for row in connection.execute(query) if artifact.key.startswith(f"{row.key}/")), None)


def delete_artifacts(connection: Connection, artifact_ids: Collection[str]) -> None:
    """Delete the rows of artifacts."""
    connection.execute(sa.delete(Artifact).where(Artifact.id.in_(list(artifact_ids))))


def delete_artifacts_below(connection: Connection, job_id: str, key: str) -> None:
    """Delete the rows of a job's artifacts below a key in the store."""
    below = sa.func.substr(Artifact.key, 1, len(key) + 1) == f"{key}/"
    connection.execute(sa.delete(Artifact).where(Artifact.job_id == job_id, below))


def list_jobs_finished_before(connection: Connection, time: int, *, after: str, limit: int) -> list[str]:
    """Return up to `limit` final jobs after the id `after` that finished before `time`, ordered by id."""
    query = sa.select(Job.id).where(Job.state.in_(FINAL_STATES), Job.finished_at < time, Job.id > after)
    return list(connection.execute(query.order_by(Job.id).limit(limit)).scalars())


def delete_events(connection: Connection, job_ids: Collection[str], types: Sequence[str]) -> int:
    """Delete the events of these types from the logs of these jobs; return how many there were."""
    statement = sa.delete(JobEvent).where(JobEvent.job_id.in_(list(job_ids)), JobEvent.type.in_(types))
    return connection.execute(statement).rowcount


def list_artifacts(connection: Connection, job_ids: Collection[str]) -> list[ArtifactRecord]:
    """Return all artifacts of these jobs."""
    rows = connection.execute(sa.select(Artifact.__table__).where(Artifact.job_id.in_(list(job_ids))))
    return [ArtifactRecord(**row._mapping) for row in rows]


def list_expired_files(connection: Connection, *, now: int, after: str, limit: int) -> list[FileRecord]:
    """Return up to `limit` expired files after the id `after`, ordered by id."""
    query = sa.select(File.__table__).where(File.expires_at <= now, File.expires_at.is_not(None), File.id > after)
    return [FileRecord(**row._mapping) for row in connection.execute(query.order_by(File.id).limit(limit))]
