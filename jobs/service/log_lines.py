"""Queries that read and search a job's output by line number."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection

from jobs.repository import log_lines
from jobs.service.jobs import JobKey, require_job


@dataclass(frozen=True, slots=True)
class Line:
    """One line of output; the job's first line is number 1."""

    number: int
    stream: str
    attempt_id: str | None
    created_at: int
    text: str


@dataclass(frozen=True, slots=True)
class LineSearch:
    """A search in a job's output.

    Attributes:
        text: The text to find within a line.
        start: The line at which the search starts; None for the first line, or for the last one if it goes backwards.
        direction: The direction of the search.
        ignore_case: Whether to ignore the case of ASCII letters.
        limit: Maximum number of matches to return.
        context: Number of lines to return before and after each match.
    """

    text: str
    start: int | None
    direction: Literal["next", "previous"]
    ignore_case: bool
    limit: int
    context: int


@dataclass(frozen=True, slots=True)
class LineMatch:
    """A line that contains the text, with the lines around it."""

    line: Line
    before: Sequence[Line]
    after: Sequence[Line]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Result of a search.

    Attributes:
        count: Number of matching lines in the whole output.
        position: Position of the first returned match among all matches, counted from 1; 0 if none is returned.
        found: The matches, nearest first.
    """

    count: int
    position: int
    found: Sequence[LineMatch]


def read_lines(connection: Connection, key: JobKey, *, first: int | None, limit: int) -> tuple[int, list[Line]]:
    """Return a job's line count and up to `limit` of its lines, starting at `first`, or the last ones if it is None.

    Raises:
        NotFoundError: there is no such job.
    """
    require_job(connection, key)
    total = log_lines.count(connection, key.job_id)
    start = max(1, total - limit + 1) if first is None else first
    return total, _read_lines(connection, key.job_id, start, min(total, start + limit - 1))


def search_lines(connection: Connection, key: JobKey, wanted: LineSearch) -> SearchResult:
    """Find the lines that contain the given text.

    Raises:
        NotFoundError: there is no such job.
    """
    require_job(connection, key)
    numbers = log_lines.list_matches(connection, key.job_id, wanted.text, ignore_case=wanted.ignore_case)
    chosen = _choose_matches(numbers, wanted)
    found = [_read_match(connection, key.job_id, number, wanted.context) for number in chosen]
    position = bisect_right(numbers, chosen[0]) if chosen else 0
    return SearchResult(len(numbers), position, found)


def _choose_matches(numbers: Sequence[int], wanted: LineSearch) -> list[int]:
    """Return the line numbers of the matches to show, searching from `wanted.start` in `wanted.direction`."""
    if wanted.direction == "next":
        begin = bisect_left(numbers, wanted.start or 1)
        return list(numbers[begin : begin + wanted.limit])
    end = len(numbers) if wanted.start is None else bisect_right(numbers, wanted.start)
    return list(reversed(numbers[max(0, end - wanted.limit) : end]))


def _read_match(connection: Connection, job_id: str, number: int, context: int) -> LineMatch:
    lines = _read_lines(connection, job_id, number - context, number + context)
    before = [line for line in lines if line.number < number]
    after = [line for line in lines if line.number > number]
    return LineMatch(next(line for line in lines if line.number == number), before, after)


def _read_lines(connection: Connection, job_id: str, first: int, last: int) -> list[Line]:
    if last < first:
        return []
    return [
        Line(number, chunk.stream, chunk.attempt_id, chunk.created_at, text)
        for chunk in log_lines.read(connection, job_id, first=first, last=last)
        for number, text in enumerate(chunk.lines, start=chunk.first_line)
        if first <= number <= last
    ]
