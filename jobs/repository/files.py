"""Rows of `files` and `artifacts`."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.records import ArtifactRecord, FileRecord
from jobs.tables import Artifact, File


def add_file(connection: Connection, file: FileRecord) -> None:
    """Insert an uploaded file."""
    connection.execute(sa.insert(File).values(**asdict(file)))


def get_files(connection: Connection, project_id: str, ids: Iterable[str]) -> dict[str, FileRecord]:
    """The files of these ids, by id."""
    query = sa.select(File.__table__).where(File.project_id == project_id, File.id.in_(list(ids)))
    return {row.id: FileRecord(**row._mapping) for row in connection.execute(query)}


def page_files(
    connection: Connection, project_id: str, *, purpose: str | None, after: str | None, limit: int
) -> list[FileRecord]:
    """Up to `limit` files, newest first, those before `after`."""
    query = sa.select(File.__table__).where(File.project_id == project_id)
    if purpose:
        query = query.where(File.purpose == purpose)
    if after:
        query = query.where(File.id < after)
    return [FileRecord(**row._mapping) for row in connection.execute(query.order_by(File.id.desc()).limit(limit))]


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
