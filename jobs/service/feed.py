"""The feed of a project: all its changes in order. A client can follow it, and resume where it left off."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from jobs.records import FeedRecord
from jobs.repository import feed

MAX_KEPT_ENTRIES = 50_000  # entries kept per project; a client that needs older ones must read everything again


@dataclass(frozen=True, slots=True)
class FeedCursor:
    """A client's position in the feed of a project; `after=None` requests only new entries."""

    project_id: str
    after: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class FeedSlice:
    """The entries after a cursor.

    Attributes:
        entries: Entries in their order, without gaps.
        position: Position of the last entry, or of the end of the feed if no entry is returned.
        reset: Whether some entries after the cursor are no longer kept, in which case none are returned.
    """

    entries: Sequence[FeedRecord]
    position: int
    reset: bool = False


def read_slices(connection: Connection, places: Sequence[FeedCursor]) -> list[FeedSlice]:
    """Read the entries after each cursor; equal cursors, such as those of many idle clients, are read once."""
    last = feed.get_last_positions(connection, {place.project_id for place in places})
    parts = {place: _read_slice(connection, place, last[place.project_id]) for place in set(places)}
    return [parts[place] for place in places]


def get_last_positions(connection: Connection, projects: Sequence[Collection[str]]) -> list[dict[str, int]]:
    """Return, for each collection of projects, the last position of each project's feed."""
    last = feed.get_last_positions(connection, {project_id for each in projects for project_id in each})
    return [{project_id: last[project_id] for project_id in each} for each in projects]


def _read_slice(connection: Connection, place: FeedCursor, last: int) -> FeedSlice:
    if place.after is None or place.after == last:
        return FeedSlice([], last)
    if place.after > last:  # the position is from another database, or from before a backup was restored
        return FeedSlice([], last, reset=True)
    found = feed.list_page(connection, place.project_id, after=place.after, limit=place.limit)
    if not found or found[0].position != place.after + 1:
        return FeedSlice([], last, reset=True)
    return FeedSlice(found, found[-1].position)
