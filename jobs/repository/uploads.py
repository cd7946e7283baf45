"""Queries on the `uploads` and `upload_parts` tables."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import Upload, UploadPart
from jobs.records import UploadPartRecord, UploadRecord


def add(connection: Connection, upload: UploadRecord) -> None:
    """Insert an upload."""
    connection.execute(sa.insert(Upload).values(**asdict(upload)))


def get(connection: Connection, project_id: str, upload_id: str, *, lock: bool = False) -> UploadRecord | None:
    """Return an upload of a project; `lock` locks it until the transaction ends."""
    query = sa.select(Upload.__table__).where(Upload.project_id == project_id, Upload.id == upload_id)
    row = connection.execute(query.with_for_update() if lock else query).first()
    return UploadRecord(**row._mapping) if row else None


def update(connection: Connection, upload_id: str, changes: Mapping[str, Any]) -> None:
    """Change columns of an upload."""
    connection.execute(sa.update(Upload).where(Upload.id == upload_id).values(**changes))


def add_part(connection: Connection, part: UploadPartRecord) -> None:
    """Insert a part."""
    connection.execute(sa.insert(UploadPart).values(**asdict(part)))


def list_parts(connection: Connection, upload_id: str) -> list[UploadPartRecord]:
    """Return the parts of an upload in the order in which they arrived."""
    query = sa.select(UploadPart.__table__).where(UploadPart.upload_id == upload_id).order_by(UploadPart.id)
    return [UploadPartRecord(**row._mapping) for row in connection.execute(query)]


def delete_parts(connection: Connection, upload_id: str) -> None:
    """Delete the rows of an upload's parts."""
    connection.execute(sa.delete(UploadPart).where(UploadPart.upload_id == upload_id))


def delete_expired(connection: Connection, *, before: int) -> None:
    """Delete the rows of uploads that expired earlier than `before`, and the rows of their parts."""
    expired = sa.select(Upload.id).where(Upload.expires_at < before)
    connection.execute(sa.delete(UploadPart).where(UploadPart.upload_id.in_(expired)))
    connection.execute(sa.delete(Upload).where(Upload.expires_at < before))
