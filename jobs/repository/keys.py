"""Queries on the `projects` and `api_keys` tables."""

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database import insert
from jobs.database.tables import ApiKey, Project
from jobs.identifiers import new_id
from jobs.records import KeyRecord

KEY_COLUMNS = (
    ApiKey.id,
    ApiKey.project_id,
    Project.name.label("project"),
    ApiKey.name,
    ApiKey.role,
    ApiKey.hint,
    ApiKey.created_at,
    ApiKey.revoked_at,
)
# Executed on every request; building the statement once avoids most of the overhead in Python.
_SELECT_BY_HASH = (
    sa.select(ApiKey.key_hash, *KEY_COLUMNS)
    .join(Project, Project.id == ApiKey.project_id)
    .where(ApiKey.key_hash.in_(sa.bindparam("hashes", expanding=True)), ApiKey.revoked_at.is_(None))
)


def ensure_project(connection: Connection, name: str, *, now: int) -> str:
    """Return the id of the project with this name; create the project if it does not exist."""
    statement = insert(connection, Project).values(id=new_id("proj"), name=name, created_at=now)
    connection.execute(statement.on_conflict_do_nothing(index_elements=[Project.name]))
    return connection.execute(sa.select(Project.id).where(Project.name == name)).scalar_one()


def add(connection: Connection, key: KeyRecord, key_hash: str) -> None:
    """Insert a key under the hash of its secret."""
    connection.execute(
        sa.insert(ApiKey).values(
            id=key.id,
            project_id=key.project_id,
            name=key.name,
            role=key.role,
            key_hash=key_hash,
            hint=key.hint,
            created_at=key.created_at,
        )
    )


def get_by_hash(connection: Connection, hashes: Iterable[str]) -> dict[str, KeyRecord]:
    """Return the valid keys with these hashes, by hash."""
    return {row[0]: KeyRecord(*row[1:]) for row in connection.execute(_SELECT_BY_HASH, {"hashes": list(hashes)})}


def exists(connection: Connection, key_id: str) -> bool:
    """Whether a key with this id exists, revoked or not."""
    return connection.execute(sa.select(ApiKey.id).where(ApiKey.id == key_id)).first() is not None


def list_page(connection: Connection, *, after: str | None, limit: int) -> list[KeyRecord]:
    """Return up to `limit` keys of all projects after the id `after`, oldest first, including revoked ones."""
    query = sa.select(*KEY_COLUMNS).join(Project, Project.id == ApiKey.project_id).order_by(ApiKey.id).limit(limit)
    if after:
        query = query.where(ApiKey.id > after)
    return [KeyRecord(*row) for row in connection.execute(query)]


def revoke(connection: Connection, key_id: str, *, now: int) -> bool:
    """Revoke a key; return False if no valid key has this id."""
    statement = sa.update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)).values(revoked_at=now)
    return connection.execute(statement).rowcount == 1
