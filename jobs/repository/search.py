"""Queries for jobs that match a filter. Rows of `job_search` are narrow, so scanning all rows of a project is cheap."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection
from sqlalchemy.dialects.postgresql import JSONB

from jobs.database.tables import Job, JobLabel, JobSearch
from jobs.records import JobFilter, JobRecord
from jobs.repository.jobs import RECORD_COLUMNS, to_record
from jobs.specs.searchable import build_search_lines, build_searchable_error


def insert(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the search rows of new jobs."""
    if rows:
        connection.execute(sa.insert(JobSearch), list(rows))


def set_error(connection: Connection, job_id: str, error: Mapping[str, Any] | None) -> None:
    """Change the error in a job's search row."""
    statement = sa.update(JobSearch).where(JobSearch.job_id == job_id)
    connection.execute(statement.values(error=build_searchable_error(error)))


def list_page(
    connection: Connection, project_id: str, wanted: JobFilter, *, after: str | None, limit: int
) -> list[JobRecord]:
    """Return up to `limit` jobs of a project, newest first, after the job `after`."""
    ids = _select_ids(connection, project_id, wanted)
    found = _limit_to_newest(ids, after=after, limit=limit).subquery()
    query = sa.select(*RECORD_COLUMNS).join(found, found.c.id == Job.id).order_by(Job.id.desc())
    return [to_record(row) for row in connection.execute(query)]


def list_ids(
    connection: Connection,
    project_id: str,
    wanted: JobFilter,
    *,
    states: Collection[str],
    created_until: int,
    after: str | None,
    limit: int,
) -> list[str]:
    """Return the ids of matching jobs in `states`, newest first, after the job `after`."""
    ids = _select_ids(connection, project_id, wanted, on_jobs=True)
    ids = ids.where(Job.state.in_(list(states)), Job.created_at <= created_until)
    return list(connection.execute(_limit_to_newest(ids, after=after, limit=limit)).scalars())


def count_by_state(connection: Connection, project_id: str, wanted: JobFilter) -> dict[str, int]:
    """Return how many jobs match, by state; states without jobs are absent."""
    ids = _select_ids(connection, project_id, wanted, on_jobs=True, all_rows=True)
    query = ids.with_only_columns(Job.state, sa.func.count()).group_by(Job.state)
    return {state: count for state, count in connection.execute(query)}  # noqa: C416 - dict() does not accept rows


def _limit_to_newest(ids: sa.Select[str], *, after: str | None, limit: int) -> sa.Select[str]:
    column = ids.selected_columns.id
    return (ids.where(column < after) if after else ids).order_by(column.desc()).limit(limit)


def _select_ids(
    connection: Connection, project_id: str, wanted: JobFilter, *, on_jobs: bool = False, all_rows: bool = False
) -> sa.Select[str]:
    """Build the query for the ids of matching jobs, on `job_search` alone if possible.

    Args:
        connection: The connection, whose dialect decides how text is searched.
        project_id: The project of the jobs.
        wanted: The conditions.
        on_jobs: Whether to select from `jobs` in any case.
        all_rows: Whether all matches are needed: then all of `job_search` is scanned first, not just up to the limit.
    """
    narrow = _build_search_conditions(connection, wanted)
    on_jobs = on_jobs or bool(wanted.states or wanted.kind or wanted.from_openai or wanted.metadata) or not narrow
    key = Job.id if on_jobs else JobSearch.job_id
    query = sa.select(key.label("id")).where((Job if on_jobs else JobSearch).project_id == project_id)
    if on_jobs and narrow and all_rows:
        query = query.where(Job.id.in_(sa.select(JobSearch.job_id).where(JobSearch.project_id == project_id, *narrow)))
    else:
        if on_jobs and narrow:
            query = query.join(JobSearch, sa.and_(JobSearch.project_id == Job.project_id, JobSearch.job_id == Job.id))
        query = query.where(*narrow)
    if wanted.states:
        query = query.where(Job.state.in_(wanted.states))
    if wanted.kind:
        query = query.where(Job.kind == wanted.kind)
    if wanted.label:
        label, value = wanted.label
        labelled = sa.select(JobLabel.job_id).where(
            JobLabel.project_id == project_id, JobLabel.key == label, JobLabel.value == value
        )
        query = query.where(key.in_(labelled))
    if wanted.from_openai:
        query = query.where(Job.openai.is_not(None))
    for name, value in wanted.metadata.items():
        query = query.where(_build_metadata_condition(connection, name, value))
    if wanted.id_prefix:
        query = query.where(sa.func.substr(key, 1, len(wanted.id_prefix)) == wanted.id_prefix)
    return query


def _build_search_conditions(connection: Connection, wanted: JobFilter) -> list[ColumnElement[bool]]:
    """Build the conditions on the rows of `job_search`."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.field:
        position = sa.func.instr if connection.dialect.name == "sqlite" else sa.func.strpos
        lines = build_search_lines(*wanted.field)
        conditions.append(sa.or_(*(position(JobSearch.fields, line) > 0 for line in lines)))
    if wanted.error:
        conditions.append(JobSearch.error.icontains(wanted.error, autoescape=True))
    if wanted.submitter:
        conditions.append(JobSearch.submitter == wanted.submitter)
    if wanted.created_from is not None:
        conditions.append(JobSearch.created_at >= wanted.created_from)
    if wanted.created_before is not None:
        conditions.append(JobSearch.created_at < wanted.created_before)
    return conditions


def _build_metadata_condition(connection: Connection, key: str, value: str) -> sa.ColumnElement[bool]:
    """Build the condition on one metadata field.

    Keys are compared after decoding, because SQLite's JSON paths do not find keys with escaped characters or quotes.
    """
    if connection.dialect.name == "postgresql":
        return sa.cast(Job.openai, JSONB).contains({"metadata": {key: value}})
    entries = sa.func.json_each(Job.openai, "$.metadata").table_valued("key", "value")
    return sa.exists().select_from(entries).where(entries.c.key == key, entries.c.value == value)
