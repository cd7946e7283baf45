"""Rows of `files` and `artifacts`."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import Artifact, File
from jobs.records import ArtifactRecord, FileFilter, FileRecord


def add_file(connection: Connection, file: FileRecord) -> None:
    """Insert an uploaded file."""
    connection.execute(sa.insert(File).values(**asdict(file)))


def get_files(
    connection: Connection, project_id: str, ids: Iterable[str], *, now: int, keep: bool = False
) -> dict[str, FileRecord]:
    """Read the files of these ids that have not expired, by id; with `keep`, nobody deletes them meanwhile."""
    query = sa.select(File.__table__).where(File.project_id == project_id, File.id.in_(list(ids)), _unexpired(now))
    if keep:
        query = query.order_by(File.id).with_for_update(read=True, key_share=True)
    return {row.id: FileRecord(**row._mapping) for row in connection.execute(query)}


def page_files(
    connection: Connection, project_id: str, wanted: FileFilter, *, after: str | None, limit: int, now: int
) -> list[FileRecord]:
    """Read up to `limit` files that have not expired, those behind `after`."""
    query = sa.select(File.__table__).where(File.project_id == project_id, _unexpired(now))
    if wanted.purposes is not None:
        query = query.where(File.purpose.in_(wanted.purposes))
    if after:
        query = query.where(File.id > after if wanted.oldest_first else File.id < after)
    order = File.id.asc() if wanted.oldest_first else File.id.desc()
    return [FileRecord(**row._mapping) for row in connection.execute(query.order_by(order).limit(limit))]


def delete_file(connection: Connection, file_id: str) -> None:
    """Delete the row of a file."""
    connection.execute(sa.delete(File).where(File.id == file_id))


def add_artifacts(connection: Connection, artifacts: Sequence[ArtifactRecord]) -> None:
    """Insert artifacts: from the commit on they are visible."""
    if artifacts:
        connection.execute(sa.insert(Artifact), [asdict(artifact) for artifact in artifacts])


def page_artifacts(connection: Connection, job_id: str, *, after: str | None, limit: int) -> list[ArtifactRecord]:
    """Up to `limit` artifacts of a job in the order of their ids, those behind `after`."""
    query = sa.select(Artifact.__table__).where(Artifact.job_id == job_id)
    if after:
        query = query.where(Artifact.id > after)
    return [ArtifactRecord(**row._mapping) for row in connection.execute(query.order_by(Artifact.id).limit(limit))]


def get_artifact(connection: Connection, job_id: str, path: str) -> ArtifactRecord | None:
    """The artifact of a job at this path."""
    query = sa.select(Artifact.__table__).where(Artifact.job_id == job_id, Artifact.path == path)
    row = connection.execute(query).first()
    return ArtifactRecord(**row._mapping) if row else None


def artifact_exists(connection: Connection, job_id: str, artifact_id: str) -> bool:
    """Whether the job has this artifact."""
    query = sa.select(Artifact.id).where(Artifact.job_id == job_id, Artifact.id == artifact_id)
    return connection.execute(query).first() is not None


def _unexpired(now: int) -> sa.ColumnElement[bool]:
    return sa.or_(File.expires_at.is_(None), File.expires_at > now)
