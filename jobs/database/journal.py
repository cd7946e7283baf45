"""The feed entries and usage of a transaction, written immediately before its commit.

A position is taken under the lock of the project's row in `feed_positions`. The lock is held until the commit, so
positions become visible in order and without gaps, whatever else commits at the same time. It is taken last, and
projects are locked in the order of their ids, so deadlocks are impossible: the lock's holder waits only for the disk.

Usage is written here too, for the same reason: many transactions add to the same row.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from jobs.database.tables import Feed, FeedPosition, Usage
from jobs.records import FeedEventType

DAY_MS = 24 * 3600 * 1000
_JOURNAL_KEY = "baichuan.journal"
_INSERT_FEED = sa.insert(Feed)


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """One entry for the feed of a project."""

    project_id: str
    job_id: str | None
    type: FeedEventType
    data: Mapping[str, Any]
    created_at: int


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """Amounts to add to the usage of an API key on one day (days since the epoch)."""

    project_id: str
    key_id: str
    day: int
    jobs: int = 0
    device_ms: int = 0
    tokens: int = 0


@dataclass(slots=True)
class Journal:
    """Entries that a connection's transaction still has to write; a rollback to a savepoint discards later ones."""

    entries: list[FeedEntry | KeyUsage] = field(default_factory=list)
    savepoints: dict[str, int] = field(default_factory=dict)


def add_to_feed(
    connection: Connection,
    project_id: str,
    job_id: str | None,
    kind: FeedEventType,
    data: Mapping[str, Any],
    *,
    now: int,
) -> None:
    """Add an entry to the project's feed; it becomes visible once the transaction is committed."""
    _get_journal(connection).entries.append(FeedEntry(project_id, job_id, kind, data, now))


def add_usage(
    connection: Connection,
    project_id: str,
    key_id: str | None,
    *,
    now: int,
    jobs: int = 0,
    device_ms: int = 0,
    tokens: int = 0,
) -> None:
    """Add to today's usage of an API key."""
    used = KeyUsage(project_id, key_id or "", now // DAY_MS, jobs, device_ms, tokens)
    _get_journal(connection).entries.append(used)


def begin_journal(connection: Connection) -> None:
    """Start an empty journal, without entries that an earlier transaction on this connection may have left."""
    connection.info[_JOURNAL_KEY] = Journal()


def write_journal(connection: Connection) -> frozenset[str]:
    """Write the transaction's feed entries and usage; return the projects whose feeds have grown."""
    entries = _get_journal(connection).entries
    _write_usage(connection, [each for each in entries if isinstance(each, KeyUsage)])
    told: dict[str, list[FeedEntry]] = {}
    for each in entries:
        if isinstance(each, FeedEntry):
            told.setdefault(each.project_id, []).append(each)
    for project_id in sorted(told):
        _write_feed(connection, project_id, told[project_id])
    begin_journal(connection)
    return frozenset(told)


def track_savepoints(engine: Engine) -> None:
    """Make each rollback to a savepoint discard the journal entries recorded since that savepoint."""

    def remember_savepoint(connection: Connection, name: str) -> None:
        journal = _get_journal(connection)
        journal.savepoints[name] = len(journal.entries)

    def discard_entries(connection: Connection, name: str, _context: None) -> None:
        journal = _get_journal(connection)
        del journal.entries[journal.savepoints.get(name, 0) :]

    event.listen(engine, "savepoint", remember_savepoint)
    event.listen(engine, "rollback_savepoint", discard_entries)


def _write_feed(connection: Connection, project_id: str, told: Sequence[FeedEntry]) -> None:
    counted = {"project_id": project_id, "last": len(told)}
    last: int = connection.execute(_build_position_update(connection.dialect.name), counted).scalar_one()
    rows = [
        {
            "project_id": project_id,
            "position": last - len(told) + number,
            "job_id": each.job_id,
            "type": each.type,
            "data": dict(each.data),
            "created_at": each.created_at,
        }
        for number, each in enumerate(told, start=1)
    ]
    connection.execute(_INSERT_FEED, rows)


@cache
def _build_position_update(dialect: str) -> sa.Executable:
    """Build, once per dialect, the statement that adds `last` to a project's counter and returns the counter."""
    counter = (sqlite_insert if dialect == "sqlite" else postgresql_insert)(FeedPosition)
    added = counter.on_conflict_do_update(
        index_elements=[FeedPosition.project_id], set_={"last": FeedPosition.last + counter.excluded.last}
    )
    return added.returning(FeedPosition.last)


@cache
def _build_usage_update(dialect: str) -> sa.Executable:
    """Build the statement that adds to the usage of a key on a day."""
    new = (sqlite_insert if dialect == "sqlite" else postgresql_insert)(Usage)
    return new.on_conflict_do_update(
        index_elements=[Usage.project_id, Usage.day, Usage.key_id],
        set_={name: getattr(Usage, name) + new.excluded[name] for name in ("jobs", "device_ms", "tokens")},
    )


def _write_usage(connection: Connection, used: Sequence[KeyUsage]) -> None:
    sums: dict[tuple[str, int, str], Counter[str]] = {}
    for each in used:
        total = sums.setdefault((each.project_id, each.day, each.key_id), Counter())
        total.update(jobs=each.jobs, device_ms=each.device_ms, tokens=each.tokens)
    for (project_id, day, key_id), total in sorted(sums.items()):
        row = {"project_id": project_id, "day": day, "key_id": key_id, **total}
        connection.execute(_build_usage_update(connection.dialect.name), row)


def _get_journal(connection: Connection) -> Journal:
    return connection.info.setdefault(_JOURNAL_KEY, Journal())  # type: ignore[no-any-return]
