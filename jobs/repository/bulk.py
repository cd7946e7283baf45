"""Queries on the `bulk_operations` table."""

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import BulkOperation
from jobs.records import BulkOperationRecord


def add(connection: Connection, bulk: BulkOperationRecord) -> None:
    """Insert an operation."""
    connection.execute(sa.insert(BulkOperation).values(**asdict(bulk)))


def get(connection: Connection, bulk_id: str) -> BulkOperationRecord | None:
    """Return the operation with this id."""
    row = connection.execute(sa.select(BulkOperation.__table__).where(BulkOperation.id == bulk_id)).first()
    return BulkOperationRecord(**row._mapping) if row else None


def lock_first_unfinished(connection: Connection) -> BulkOperationRecord | None:
    """Lock and return the oldest unfinished operation that no other transaction has locked."""
    query = sa.select(BulkOperation.__table__).where(BulkOperation.finished_at.is_(None))
    row = connection.execute(query.order_by(BulkOperation.id).limit(1).with_for_update(skip_locked=True)).first()
    return BulkOperationRecord(**row._mapping) if row else None


def list_page(connection: Connection, project_id: str, *, after: str | None, limit: int) -> list[BulkOperationRecord]:
    """Return up to `limit` operations of a project, newest first, after the operation `after`."""
    query = sa.select(BulkOperation.__table__).where(BulkOperation.project_id == project_id)
    if after:
        query = query.where(BulkOperation.id < after)
    return [
        BulkOperationRecord(**row._mapping)
        for row in connection.execute(query.order_by(BulkOperation.id.desc()).limit(limit))
    ]


def update(connection: Connection, bulk_id: str, changes: dict[str, Any]) -> None:
    """Change columns of an operation."""
    connection.execute(sa.update(BulkOperation).where(BulkOperation.id == bulk_id).values(**changes))
