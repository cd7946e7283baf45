"""Lines of a job's output, stored in the rows of `events` that have a `first_line`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from jobs.database.tables import Job, JobEvent


@dataclass(frozen=True, slots=True)
class LineChunk:
    """Consecutive lines that were recorded together."""

    first_line: int
    attempt_id: str | None
    created_at: int
    stream: str
    lines: Sequence[str]


def count(connection: Connection, job_id: str) -> int:
    """Return how many lines a job has printed."""
    return connection.execute(sa.select(Job.log_lines).where(Job.id == job_id)).scalar_one()


def read(connection: Connection, job_id: str, *, first: int, last: int) -> list[LineChunk]:
    """Return the chunks that contain the lines `first` to `last`, in order."""
    begin = sa.select(sa.func.max(JobEvent.first_line)).where(JobEvent.job_id == job_id, JobEvent.first_line <= first)
    query = sa.select(JobEvent.first_line, JobEvent.attempt_id, JobEvent.created_at, JobEvent.data).where(
        JobEvent.job_id == job_id,
        JobEvent.first_line >= sa.func.coalesce(begin.scalar_subquery(), first),
        JobEvent.first_line <= last,
    )
    return [
        LineChunk(row.first_line, row.attempt_id, row.created_at, row.data["stream"], row.data["lines"])
        for row in connection.execute(query.order_by(JobEvent.first_line))
    ]


def list_matches(connection: Connection, job_id: str, text: str, *, ignore_case: bool) -> Sequence[int]:
    """Return the numbers of all lines that contain the given text, in ascending order.

    The database splits and searches the lines, because it is several times faster than Python and returns only numbers.
    """
    sqlite = connection.dialect.name == "sqlite"
    lines: Any
    if sqlite:
        lines = sa.func.json_each(JobEvent.data, "$.lines").table_valued("key", "value")
        number = JobEvent.first_line + lines.c.key
    else:
        elements = sa.func.jsonb_array_elements_text(JobEvent.data["lines"])
        lines = elements.table_valued("value", with_ordinality="ordinality", joins_implicitly=True)
        lines = lines.render_derived()
        number = JobEvent.first_line + sa.cast(lines.c.ordinality, sa.Integer) - 1
    query = (
        sa.select(number)
        .select_from(sa.join(JobEvent, lines, sa.true()))
        .where(JobEvent.job_id == job_id, JobEvent.first_line.is_not(None))
        .where(_build_text_condition(lines.c.value, text, sqlite=sqlite, ignore_case=ignore_case))
    )
    return sorted(connection.execute(query).scalars())


def _build_text_condition(
    value: ColumnElement[str], text: str, *, sqlite: bool, ignore_case: bool
) -> ColumnElement[bool]:
    position = sa.func.instr if sqlite else sa.func.strpos
    if ignore_case:
        return position(sa.func.lower(value), _lower_ascii(text)) > 0
    return position(value, text) > 0


def _lower_ascii(text: str) -> str:
    """Convert ASCII letters to lower case, as SQLite's `lower` does."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)
