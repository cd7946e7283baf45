"""Queries on the `files` and `artifacts` tables; artifacts can be listed, and read by id, like uploaded files."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import Artifact, File, Job
from jobs.records import ArtifactRecord, FileFilter, FileRecord

# Purpose shown for the artifacts of jobs, by job kind; OpenAI's API has no other purposes for results.
PURPOSES_BY_KIND = {"finetune": "fine-tune-results", "generate": "batch_output"}
DEFAULT_PURPOSE = "user_data"
_PURPOSE = sa.case(PURPOSES_BY_KIND, value=Job.kind, else_=DEFAULT_PURPOSE)
_ARTIFACT_AS_FILE = (
    Artifact.id,
    Job.project_id,
    Artifact.path.label("filename"),
    _PURPOSE.label("purpose"),
    Artifact.key,
    Artifact.bytes,
    Artifact.sha256,
    Artifact.created_at,
    sa.null().label("expires_at"),
    Artifact.job_id,
)


def add_file(connection: Connection, file: FileRecord) -> None:
    """Insert an uploaded file."""
    values = {name: value for name, value in asdict(file).items() if name != "job_id"}
    connection.execute(sa.insert(File).values(**values))


def get_files(
    connection: Connection, project_id: str, ids: Iterable[str], *, now: int, keep: bool = False
) -> dict[str, FileRecord]:
    """Return the unexpired files with these ids, by id; `keep` locks them against deletion."""
    wanted = list(ids)
    query = sa.select(File.__table__).where(
        File.project_id == project_id, File.id.in_(wanted), _build_unexpired_condition(now)
    )
    if keep:
        query = query.order_by(File.id).with_for_update(read=True, key_share=True)
    found = {row.id: FileRecord(**row._mapping) for row in connection.execute(query)}
    if len(found) == len(set(wanted)):
        return found
    published = sa.select(*_ARTIFACT_AS_FILE).join(Job, Job.id == Artifact.job_id)
    published = published.where(Job.project_id == project_id, Artifact.id.in_(wanted))
    if keep:
        published = published.order_by(Artifact.id).with_for_update(read=True, key_share=True, of=Artifact)
    return found | {row.id: FileRecord(**row._mapping) for row in connection.execute(published)}


def list_files(
    connection: Connection, project_id: str, wanted: FileFilter, *, after: str | None, limit: int, now: int
) -> list[FileRecord]:
    """Return up to `limit` unexpired files and artifacts after the id `after`."""
    files = sa.select(File.__table__).where(File.project_id == project_id, _build_unexpired_condition(now))
    artifacts = sa.select(*_ARTIFACT_AS_FILE).join(Job, Job.id == Artifact.job_id).where(Job.project_id == project_id)
    if wanted.purposes is not None:
        files = files.where(File.purpose.in_(wanted.purposes))
        artifacts = artifacts.where(_PURPOSE.in_(wanted.purposes))
    found: list[FileRecord] = []
    for query, key in ((files, File.id), (artifacts, Artifact.id)):
        found += _read_page(connection, query, key, wanted, after, limit)
    return sorted(found, key=lambda file: file.id, reverse=not wanted.oldest_first)[:limit]


def _read_page(
    connection: Connection, query: sa.Select[Any], key: Any, wanted: FileFilter, after: str | None, limit: int
) -> list[FileRecord]:
    if after:
        query = query.where(key > after if wanted.oldest_first else key < after)
    order = key.asc() if wanted.oldest_first else key.desc()
    return [FileRecord(**row._mapping) for row in connection.execute(query.order_by(order).limit(limit))]


def find_same_file(connection: Connection, file: FileRecord, *, since: int) -> FileRecord | None:
    """Return the newest file with the same name, purpose and content that was uploaded at or after `since`."""
    query = sa.select(File.__table__).where(
        File.project_id == file.project_id,
        File.sha256 == file.sha256,
        File.filename == file.filename,
        File.purpose == file.purpose,
        File.created_at >= since,
    )
    row = connection.execute(query.order_by(File.id.desc()).limit(1)).first()
    return FileRecord(**row._mapping) if row else None


def delete_file(connection: Connection, file_id: str) -> None:
    """Delete the row of a file."""
    connection.execute(sa.delete(File).where(File.id == file_id))


def add_artifacts(connection: Connection, artifacts: Sequence[ArtifactRecord]) -> None:
    """Insert artifacts, which become visible with the commit."""
    if artifacts:
        connection.execute(sa.insert(Artifact), [asdict(artifact) for artifact in artifacts])


def list_artifacts(connection: Connection, job_id: str, *, after: str | None, limit: int) -> list[ArtifactRecord]:
    """Return up to `limit` artifacts of a job after the id `after`, ordered by id."""
    query = sa.select(Artifact.__table__).where(Artifact.job_id == job_id)
    if after:
        query = query.where(Artifact.id > after)
    return [ArtifactRecord(**row._mapping) for row in connection.execute(query.order_by(Artifact.id).limit(limit))]


def get_artifact(connection: Connection, job_id: str, path: str) -> ArtifactRecord | None:
    """Return the job's artifact at this path, or None."""
    query = sa.select(Artifact.__table__).where(Artifact.job_id == job_id, Artifact.path == path)
    row = connection.execute(query).first()
    return ArtifactRecord(**row._mapping) if row else None


def artifact_exists(connection: Connection, job_id: str, artifact_id: str) -> bool:
    """Whether the job has this artifact."""
    query = sa.select(Artifact.id).where(Artifact.job_id == job_id, Artifact.id == artifact_id)
    return connection.execute(query).first() is not None


def _build_unexpired_condition(now: int) -> sa.ColumnElement[bool]:
    return sa.or_(File.expires_at.is_(None), File.expires_at > now)
