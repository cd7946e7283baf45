"""A job's output by line number."""

from typing import Literal

from pydantic import BaseModel, Field


class LogLine(BaseModel):
    """One line that a job printed."""

    number: int = Field(description="Number of the line, counted from 1 over all attempts of the job")
    stream: str = Field(description="stdout or stderr")
    attempt_id: str | None
    created_at: int
    text: str


class LogLines(BaseModel):
    """Consecutive lines of a job's output."""

    object: Literal["job.log_lines"] = "job.log_lines"
    job_id: str
    total: int = Field(description="Number of lines that the job has printed so far")
    first: int | None = Field(description="Number of the first line returned")
    last: int | None = Field(description="Number of the last line returned")
    data: list[LogLine]


class LogMatch(BaseModel):
    """A line that contains the search text."""

    line: LogLine
    before: list[LogLine] = Field(description="Up to `context` lines before the match")
    after: list[LogLine]


class LogMatches(BaseModel):
    """The lines that contain the search text, in the order of the search: nearest first."""

    object: Literal["job.log_matches"] = "job.log_matches"
    job_id: str
    count: int = Field(description="Number of matching lines in the whole output")
    position: int = Field(description="Position of the first match among all matching lines, counted from 1; 0 if none")
    data: list[LogMatch]
