"""Queries on the `feed` and `feed_positions` tables, which `jobs.database.journal` writes."""

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import Feed, FeedPosition
from jobs.records import FeedRecord


def get_last_positions(connection: Connection, project_ids: Collection[str]) -> dict[str, int]:
    """Return the last position of each project's feed; 0 if it is empty."""
    query = sa.select(FeedPosition.project_id, FeedPosition.last).where(FeedPosition.project_id.in_(list(project_ids)))
    known = {row.project_id: row.last for row in connection.execute(query)}
    return {project_id: known.get(project_id, 0) for project_id in project_ids}


def list_page(connection: Connection, project_id: str, *, after: int, limit: int) -> list[FeedRecord]:
    """Return up to `limit` entries after a position, oldest first."""
    query = sa.select(Feed.__table__).where(Feed.project_id == project_id, Feed.position > after)
    return [FeedRecord(**row._mapping) for row in connection.execute(query.order_by(Feed.position).limit(limit))]


def prune(connection: Connection, *, keep: int) -> None:
    """Delete all but the last `keep` entries of every project."""
    for project_id, last in connection.execute(sa.select(FeedPosition.project_id, FeedPosition.last)).all():
        connection.execute(sa.delete(Feed).where(Feed.project_id == project_id, Feed.position <= last - keep))
