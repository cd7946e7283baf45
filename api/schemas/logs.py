"""A job's output by line number."""

from typing import Literal

from pydantic import BaseModel, Field


class LogLine(BaseModel):
    """One line that a job printed."""

    number: int = Field(description="1 for the first line of the job, over all its attempts")
    stream: str = Field(description="stdout or stderr")
    attempt_id: str | None
    created_at: int
    text: str


class LogLines(BaseModel):
    """Consecutive lines of a job's output."""

    object: Literal["job.log_lines"] = "job.log_lines"
    job_id: str
    total: int = Field(description="Lines that the job has printed so far")
    first: int | None = Field(description="Number of the first line returned")
    last: int | None = Field(description="Number of the last line returned")
    data: list[LogLine]


class LogMatch(BaseModel):
    """A line that contains the text."""

    line: LogLine
    before: list[LogLine] = Field(description="The lines before it, as many as `context` says")
    after: list[LogLine]


class LogMatches(BaseModel):
    """Lines that contain a text, in the order of the search: the nearest first."""

    object: Literal["job.log_matches"] = "job.log_matches"
    job_id: str
    count: int = Field(description="Matching lines in the whole output")
    position: int = Field(description="How many matching lines there are up to the first match, itself included")
    data: list[LogMatch]
