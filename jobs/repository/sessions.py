"""Queries on the `sessions` table."""

from collections.abc import Iterable
from typing import Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import ApiKey, Project, Session
from jobs.records import KeyRecord, SessionRecord
from jobs.repository.keys import KEY_COLUMNS

SessionKind = Literal["session", "link"]


def add(connection: Connection, token_hash: str, key_id: str, kind: SessionKind, *, now: int, expires_at: int) -> None:
    """Insert a session or a link under the hash of its token."""
    row = {"token_hash": token_hash, "key_id": key_id, "kind": kind, "created_at": now, "expires_at": expires_at}
    connection.execute(sa.insert(Session).values(**row))


def get_by_hash(
    connection: Connection, hashes: Iterable[str], kind: SessionKind, *, now: int
) -> dict[str, SessionRecord]:
    """Return the sessions or links that have not expired and whose keys are valid, by hash."""
    query = (
        sa.select(Session.token_hash, Session.expires_at, *KEY_COLUMNS)
        .join(ApiKey, ApiKey.id == Session.key_id)
        .join(Project, Project.id == ApiKey.project_id)
        .where(Session.token_hash.in_(list(hashes)), Session.kind == kind, Session.expires_at > now)
        .where(ApiKey.revoked_at.is_(None))
    )
    rows = connection.execute(query)
    return {row.token_hash: SessionRecord(KeyRecord(*tuple(row)[2:]), row.expires_at) for row in rows}


def remove(connection: Connection, token_hash: str) -> bool:
    """Delete a session or link; return whether this transaction was the one that deleted it."""
    return connection.execute(sa.delete(Session).where(Session.token_hash == token_hash)).rowcount == 1


def remove_expired(connection: Connection, *, now: int) -> None:
    """Delete expired sessions and links."""
    connection.execute(sa.delete(Session).where(Session.expires_at <= now))
