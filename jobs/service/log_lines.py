"""A job's output by line numbers: parts of it, and searching it."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection

from jobs.repository import log_lines
from jobs.service.jobs import JobKey, require_job


@dataclass(frozen=True, slots=True)
class Line:
    """One line of output; `number` is 1 for the first of the job."""

    number: int
    stream: str
    attempt_id: str | None
    created_at: int
    text: str


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for.

    Attributes:
        text: A part of one line.
        start: The line to begin at, itself included; None for the first or, backwards, for the last.
        direction: Towards which end.
        ignore_case: Whether A matches a; ASCII letters only.
        limit: Most matches to return.
        context: Lines to return before and after each match.
    """

    text: str
    start: int | None
    direction: Literal["next", "previous"]
    ignore_case: bool
    limit: int
    context: int


@dataclass(frozen=True, slots=True)
class Match:
    """A line that contains the text, with its neighbours."""

    line: Line
    before: Sequence[Line]
    after: Sequence[Line]


@dataclass(frozen=True, slots=True)
class Matches:
    """Result of a search.

    Attributes:
        count: Matching lines in the whole output.
        position: How many of them there are up to the first that is returned, itself included; 0 if none is.
        found: The matches, the nearest first.
    """

    count: int
    position: int
    found: Sequence[Match]


def read_lines(connection: Connection, key: JobKey, *, first: int | None, limit: int) -> tuple[int, list[Line]]:
    """Return how many lines a job has printed, and up to `limit` of them from `first` on, or the last ones.

    Raises:
        NotFoundError: there is no such job.
    """
    require_job(connection, key)
    total = log_lines.count(connection, key.job_id)
    start = max(1, total - limit + 1) if first is None else first
    return total, _read(connection, key.job_id, start, min(total, start + limit - 1))


def search_lines(connection: Connection, key: JobKey, wanted: Search) -> Matches:
    """Find lines that contain a text.

    Raises:
        NotFoundError: there is no such job.
    """
    require_job(connection, key)
    numbers = log_lines.list_matches(connection, key.job_id, wanted.text, ignore_case=wanted.ignore_case)
    chosen = _choose(numbers, wanted)
    found = [_read_match(connection, key.job_id, number, wanted.context) for number in chosen]
    position = bisect_right(numbers, chosen[0]) if chosen else 0
    return Matches(len(numbers), position, found)


def _choose(numbers: Sequence[int], wanted: Search) -> list[int]:
    """Return the numbers of the matches to show: from the start on, in the direction of the search."""
    if wanted.direction == "next":
        begin = bisect_left(numbers, wanted.start or 1)
        return list(numbers[begin : begin + wanted.limit])
    end = len(numbers) if wanted.start is None else bisect_right(numbers, wanted.start)
    return list(reversed(numbers[max(0, end - wanted.limit) : end]))


def _read_match(connection: Connection, job_id: str, number: int, context: int) -> Match:
    lines = _read(connection, job_id, number - context, number + context)
    before = [line for line in lines if line.number < number]
    after = [line for line in lines if line.number > number]
    return Match(next(line for line in lines if line.number == number), before, after)


def _read(connection: Connection, job_id: str, first: int, last: int) -> list[Line]:
    if last < first:
        return []
    return [
        Line(number, chunk.stream, chunk.attempt_id, chunk.created_at, text)
        for chunk in log_lines.read(connection, job_id, first=first, last=last)
        for number, text in enumerate(chunk.lines, start=chunk.first_line)
        if first <= number <= last
    ]
