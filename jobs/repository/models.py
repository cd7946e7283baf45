"""Queries on the `models` table."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database import insert
from jobs.database.tables import Model
from jobs.records import ModelRecord

# Executed on every submission; building the statements once avoids most of the overhead in Python.
_SELECT_BY_ID = sa.select(Model.__table__).where(
    Model.project_id == sa.bindparam("project"), Model.id.in_(sa.bindparam("ids", expanding=True))
)
_SELECT_BY_ID_FOR_KEY_SHARE = _SELECT_BY_ID.order_by(Model.id).with_for_update(read=True, key_share=True)


def add(connection: Connection, model: ModelRecord) -> bool:
    """Insert a model; return False if the project already has a model with this name."""
    values = {
        "project_id": model.project_id,
        "id": model.id,
        "kind": model.kind,
        "state": model.state,
        "base": model.base,
        "job_id": model.job_id,
        "path": model.path,
        "key": model.key,
        "details": dict(model.details),
        "created_at": model.created_at,
    }
    statement = insert(connection, Model).values(**values).on_conflict_do_nothing()
    return connection.execute(statement.returning(Model.id)).first() is not None


def update_registered(connection: Connection, model: ModelRecord) -> None:
    """Store the current kind and details of a directory that was registered before."""
    statement = sa.update(Model).where(Model.project_id == model.project_id, Model.id == model.id)
    connection.execute(statement.values(kind=model.kind, details=dict(model.details)))


def get_many(
    connection: Connection, project_id: str, ids: Iterable[str], *, keep: bool = False
) -> dict[str, ModelRecord]:
    """Return the models with these names, by name; `keep` locks them against deletion until the transaction ends."""
    rows = connection.execute(
        _SELECT_BY_ID_FOR_KEY_SHARE if keep else _SELECT_BY_ID, {"project": project_id, "ids": list(ids)}
    )
    return {row.id: ModelRecord(**row._mapping) for row in rows}


def list_page(connection: Connection, project_id: str, *, after: str | None, limit: int | None) -> list[ModelRecord]:
    """Return up to `limit` ready models after the name `after`, or all of them, sorted by name."""
    query = sa.select(Model.__table__).where(Model.project_id == project_id, Model.state == "ready")
    if after:
        query = query.where(Model.id > after)
    return [ModelRecord(**row._mapping) for row in connection.execute(query.order_by(Model.id).limit(limit))]


def list_made_from(connection: Connection, project_id: str, base: str) -> list[ModelRecord]:
    """Return the models whose base is `base`, newest first."""
    query = sa.select(Model.__table__).where(Model.project_id == project_id, Model.base == base)
    rows = connection.execute(query.order_by(Model.created_at.desc(), Model.id))
    return [ModelRecord(**row._mapping) for row in rows]


def update_pending(connection: Connection, job_id: str, changes: Mapping[str, Any]) -> None:
    """Update the pending model of a job, but not models published from its resume points, which are ready."""
    pending = sa.update(Model).where(Model.job_id == job_id, Model.state == "pending")
    connection.execute(pending.values(**changes))


def drop_pending(connection: Connection, job_ids: Collection[str]) -> None:
    """Free the model names that these jobs have reserved."""
    connection.execute(sa.delete(Model).where(Model.job_id.in_(list(job_ids)), Model.state == "pending"))
