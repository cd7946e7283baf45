"""Queries on the `chats` table."""

from collections.abc import Collection, Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database import insert
from jobs.database.tables import Chat
from jobs.records import ChatRecord, Json

OUTCOME_COLUMNS = (
    "state",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "first_token_ms",
    "finished_at",
    "expires_at",
)


def add(connection: Connection, chats: Sequence[ChatRecord]) -> None:
    """Insert running chats, except those that already have a row because they have ended in the meantime."""
    connection.execute(insert(connection, Chat).on_conflict_do_nothing(), [asdict(chat) for chat in chats])


def end(connection: Connection, chats: Sequence[ChatRecord]) -> None:
    """Record how chats ended; insert those that have no row yet."""
    new = insert(connection, Chat)
    changes = {name: new.excluded[name] for name in (*OUTCOME_COLUMNS, "error", "stored")}
    statement = new.on_conflict_do_update(index_elements=[Chat.id], set_=changes)
    connection.execute(statement, [asdict(chat) for chat in chats])


def renew(connection: Connection, ids: Collection[str], *, expires_at: int) -> None:
    """Postpone the expiry of running chats."""
    running = sa.update(Chat).where(Chat.id.in_(list(ids)), Chat.expires_at.is_not(None))
    connection.execute(running.values(expires_at=expires_at))


def fail_expired(connection: Connection, *, now: int, error: Json) -> int:
    """Fail running chats that have expired; return how many there were."""
    changes = {"state": "failed", "finished_at": now, "expires_at": None, "error": dict(error)}
    return connection.execute(sa.update(Chat).where(Chat.expires_at < now).values(**changes)).rowcount


def remove_before(connection: Connection, time: int, *, limit: int) -> int:
    """Delete up to `limit` ended chats that arrived before `time`; return how many were deleted."""
    old = sa.select(Chat.id).where(Chat.created_at < time, Chat.expires_at.is_(None)).limit(limit)
    return connection.execute(sa.delete(Chat).where(Chat.id.in_(old))).rowcount


def get(connection: Connection, project_id: str, chat_id: str) -> ChatRecord | None:
    """Return a chat of a project."""
    query = sa.select(Chat.__table__).where(Chat.project_id == project_id, Chat.id == chat_id)
    row = connection.execute(query).first()
    return ChatRecord(**row._mapping) if row else None


def list_stored(
    connection: Connection, project_id: str, *, after: str | None, limit: int, oldest_first: bool
) -> list[ChatRecord]:
    """Return up to `limit` stored chats of a project."""
    query = sa.select(Chat.__table__).where(Chat.project_id == project_id, Chat.stored.is_not(None))
    if after is not None:
        query = query.where(Chat.id > after if oldest_first else Chat.id < after)
    query = query.order_by(Chat.id if oldest_first else Chat.id.desc()).limit(limit)
    return [ChatRecord(**row._mapping) for row in connection.execute(query)]


def set_stored(connection: Connection, chat_id: str, stored: Json | None) -> None:
    """Overwrite the stored text of a chat; None deletes it."""
    connection.execute(
        sa.update(Chat).where(Chat.id == chat_id).values(stored=None if stored is None else dict(stored))
    )
