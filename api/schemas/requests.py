"""Request bodies and queries; unknown fields are rejected."""

import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from jobs.records import BulkAction, JobFilter
from jobs.specs import KINDS
from jobs.specs.fields import ModelName
from jobs.state import JobState

MAX_SEQUENCE = 2**31 - 1
MAX_TIME_SECONDS = 10**11  # still fits into 64 bits when converted to milliseconds
MAX_POSITION = 2**63 - 1
STATE_PATTERN = "|".join(JobState)
LABEL_PATTERN = r"^[A-Za-z0-9_.-]{1,63}:[^\x00]{0,128}$"
FIELD_PATTERN = r"^[a-z0-9_.]{1,128}:[^\x00\r\n]{1,128}$"
Cursor = Annotated[str, StringConstraints(min_length=1, max_length=128)]
ShortName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", min_length=1, max_length=128)]


def _require_digits(value: object) -> object:
    """Reject "1.0" and " 1": a query contains only strings, and pydantic would convert these to integers."""
    if isinstance(value, str) and not re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        raise ValueError("must be an integer in decimal digits")
    return value


WholeNumber = Annotated[int, BeforeValidator(_require_digits)]


def _require_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"unknown job kind {kind!r}; use one of {', '.join(KINDS)}")
    return kind


JobKind = Annotated[str, AfterValidator(_require_kind), Field(json_schema_extra={"enum": list(KINDS)})]


class StrictRequestModel(BaseModel):
    """A body or a query that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageQuery(StrictRequestModel):
    """The part of a list to return."""

    after: Cursor | None = Field(None, description="The id of the last item seen")
    limit: WholeNumber = Field(20, ge=1, le=100)


class ModelQuery(StrictRequestModel):
    """The part of the list of models to return: all of it unless `limit` is given, as in OpenAI's API."""

    after: Cursor | None = Field(None, description="The id of the last item seen")
    limit: WholeNumber | None = Field(None, ge=1, le=100, description="By default, all models are returned")


class JobSelection(StrictRequestModel):
    """Conditions for jobs; a job must meet all of them."""

    state: str | None = Field(
        None,
        pattern=rf"^({STATE_PATTERN})(,({STATE_PATTERN}))*$",
        description="One state, or several separated by commas",
    )
    kind: JobKind | None = None
    label: str | None = Field(None, pattern=LABEL_PATTERN, description="key:value")
    field: str | None = Field(
        None,
        pattern=FIELD_PATTERN,
        description="A field of the spec and its value, as name:value, for example learning_rate:1e-4 or"
        " resources.nodes:2; for a list, the value is one of its elements",
    )
    error: str | None = Field(
        None, min_length=1, max_length=200, description="Part of the error's code or message; case is ignored"
    )
    id: str | None = Field(None, pattern=r"^[a-z0-9-]{1,64}$", description="Prefix of the id")
    submitter: str | None = Field(
        None, min_length=1, max_length=128, description="Name of the API key that submitted the job"
    )
    created_after: WholeNumber | None = Field(
        None, ge=0, le=MAX_TIME_SECONDS, description="Created at or after this time, in seconds since the epoch"
    )
    created_before: WholeNumber | None = Field(
        None, ge=0, le=MAX_TIME_SECONDS, description="Created before this time, in seconds since the epoch"
    )

    def to_filter(self) -> JobFilter:
        """Convert the conditions to a `JobFilter`."""
        return JobFilter(
            states=tuple(self.state.split(",")) if self.state else (),
            kind=self.kind,
            label=_split_pair(self.label),
            field=_split_pair(self.field),
            error=self.error,
            id_prefix=self.id,
            submitter=self.submitter,
            created_from=_to_milliseconds(self.created_after),
            created_before=_to_milliseconds(self.created_before),
        )


class JobQuery(JobSelection, PageQuery):
    """Filters for a list of jobs, and which page of it to return."""


class BulkRequest(StrictRequestModel):
    """An action on all jobs that match; at least one condition is required."""

    action: BulkAction
    filter: JobSelection

    @model_validator(mode="after")
    def _require_condition(self) -> Self:
        if not self.filter.model_dump(exclude_none=True):
            raise ValueError("filter has no condition; add at least one, such as state, kind, label or created_before")
        return self


class FeedQuery(StrictRequestModel):
    """The position from which to read a project's events."""

    after: int | None = Field(
        None, ge=0, le=MAX_POSITION, description="The id of the last event seen; by default, only new events follow"
    )
    limit: int = Field(100, ge=1, le=1000, description="Maximum number of events in a response that is not a stream")


class LogLinesQuery(StrictRequestModel):
    """The lines of a job's output to return."""

    first: int | None = Field(
        None, ge=1, le=MAX_SEQUENCE, description="First line to return; by default, the last ones"
    )
    limit: int = Field(500, ge=1, le=5000)


class LogSearchQuery(StrictRequestModel):
    """The text to find in a job's output, and where to search."""

    query: str = Field(min_length=1, max_length=500, pattern=r"^[^\x00]+$", description="Text to find within a line")
    start: int | None = Field(
        None, ge=1, le=MAX_SEQUENCE, description="Line at which the search starts; by default, the first or last line"
    )
    direction: Literal["next", "previous"] = "next"
    ignore_case: bool = Field(default=False, description="Whether to ignore the case of ASCII letters")
    limit: int = Field(1, ge=1, le=1000, description="Maximum number of matches to return")
    context: int = Field(0, ge=0, le=50, description="Lines to return before and after each match")


class MetricsQuery(StrictRequestModel):
    """The part of a run's series to return, and its resolution."""

    names: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_]+(,[A-Za-z0-9_]+)*$",
        max_length=1000,
        description="Names of metrics, separated by commas; all by default",
    )
    start: int | None = Field(None, ge=0, le=MAX_SEQUENCE, description="First step")
    stop: int | None = Field(None, ge=1, le=MAX_SEQUENCE, description="Step before which the series ends")
    buckets: int = Field(500, ge=1, le=5000, description="Number of equal ranges to divide the steps into")


class HistoryQuery(StrictRequestModel):
    """The resolution of a worker's history."""

    points: int = Field(240, ge=1, le=720, description="Maximum number of points to return")


class UsageQuery(StrictRequestModel):
    """The days for which to return usage."""

    days: int = Field(30, ge=1, le=366, description="Number of days, including today (UTC)")


class NewSession(StrictRequestModel):
    """The credentials for a new session: an API key, or the token of a one-time link."""

    key: Annotated[str, StringConstraints(max_length=512)] | None = None
    link: Annotated[str, StringConstraints(max_length=512)] | None = None

    @model_validator(mode="after")
    def _require_one_credential(self) -> Self:
        if (self.key is None) == (self.link is None):
            raise ValueError("pass exactly one of key and link")
        return self


class FileQuery(PageQuery):
    """The files to list."""

    purpose: str | None = Field(None, pattern=r"^[a-z_-]{1,32}$")
    limit: WholeNumber = Field(20, ge=1, le=10_000)
    order: Literal["asc", "desc"] = Field("desc", description="Order by creation time")


class EventQuery(StrictRequestModel):
    """The part of a job's log to return."""

    after: WholeNumber = Field(0, ge=0, le=MAX_SEQUENCE, description="The last sequence number seen")
    limit: WholeNumber = Field(20, ge=1, le=100)
    type: Literal["state", "progress", "log"] | None = None


class LogQuery(StrictRequestModel):
    """The part of a job's output to return."""

    after: WholeNumber = Field(0, ge=0, le=MAX_SEQUENCE, description="X-Last-Sequence of the previous response")


class NewModel(StrictRequestModel):
    """A checkpoint directory to register."""

    id: ModelName
    path: Annotated[str, StringConstraints(pattern=r"^[^\x00]+$", max_length=4096)] = Field(
        description="An absolute path on the server, under one of its allowed model roots"
    )


class PublishRequest(StrictRequestModel):
    """The model to create from a resume point."""

    id: ModelName | None = Field(None, description="Id of the model; JOB-step-STEP by default")


class NewKey(StrictRequestModel):
    """An API key to create; its project is created too if it does not exist yet."""

    name: ShortName
    project: ShortName
    role: Literal["admin", "member"] = "member"


class DrainRequest(StrictRequestModel):
    """Options for draining a worker."""

    deadline_seconds: float | None = Field(
        None, ge=0, le=31_536_000, description="Time until running jobs must yield; by default, they run to completion"
    )


def _split_pair(text: str | None) -> tuple[str, str] | None:
    """Split `key:value` into the key and the value."""
    if text is None:
        return None
    key, _, value = text.partition(":")
    return key, value


def _to_milliseconds(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * 1000
