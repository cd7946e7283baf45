"""What clients send: bodies and queries, whose unknown fields are refused."""

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

LARGEST_SEQUENCE = 2**31 - 1
LARGEST_TIME = 10**11  # in seconds; as milliseconds it still fits into 64 bits
LARGEST_POSITION = 2**63 - 1
STATES = "|".join(JobState)
LABEL_PATTERN = r"^[A-Za-z0-9_.-]{1,63}:[^\x00]{0,128}$"
FIELD_PATTERN = r"^[a-z0-9_.]{1,128}:[^\x00\r\n]{1,128}$"
Cursor = Annotated[str, StringConstraints(min_length=1, max_length=128)]
ShortName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", min_length=1, max_length=128)]


def _require_digits(value: object) -> object:
    """Reject "1.0" and " 1", which pydantic takes for whole numbers: a query contains only strings."""
    if isinstance(value, str) and not re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        raise ValueError("must be a whole number in decimal digits")
    return value


WholeNumber = Annotated[int, BeforeValidator(_require_digits)]


def _require_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind!r}; use one of {', '.join(KINDS)}")
    return kind


JobKind = Annotated[str, AfterValidator(_require_kind), Field(json_schema_extra={"enum": list(KINDS)})]


class Request(BaseModel):
    """A body or a query whose unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageQuery(Request):
    """Which part of a list."""

    after: Cursor | None = Field(None, description="The id of the last item seen")
    limit: WholeNumber = Field(20, ge=1, le=100)


class JobSelection(Request):
    """Which jobs; all given conditions must hold."""

    state: str | None = Field(
        None, pattern=rf"^({STATES})(,({STATES}))*$", description="One state, or several separated by commas"
    )
    kind: JobKind | None = None
    label: str | None = Field(None, pattern=LABEL_PATTERN, description="key:value")
    field: str | None = Field(
        None,
        pattern=FIELD_PATTERN,
        description="A field of the spec and its value, as name:value, for example learning_rate:1e-4 or"
        " resources.nodes:2; of a list, one of its elements",
    )
    error: str | None = Field(
        None, min_length=1, max_length=200, description="Part of the error's code or message, in upper or lower case"
    )
    id: str | None = Field(None, pattern=r"^[a-z0-9-]{1,64}$", description="The beginning of the id")
    submitter: str | None = Field(None, min_length=1, max_length=128, description="Name of the API key that sent it")
    created_after: WholeNumber | None = Field(
        None, ge=0, le=LARGEST_TIME, description="At or after this time, in seconds"
    )
    created_before: WholeNumber | None = Field(None, ge=0, le=LARGEST_TIME, description="Before this time, in seconds")

    def to_filter(self) -> JobFilter:
        """Return the conditions as the job domain names them."""
        return JobFilter(
            states=tuple(self.state.split(",")) if self.state else (),
            kind=self.kind,
            label=_pair(self.label),
            field=_pair(self.field),
            error=self.error,
            id_prefix=self.id,
            submitter=self.submitter,
            created_from=_milliseconds(self.created_after),
            created_before=_milliseconds(self.created_before),
        )


class JobQuery(JobSelection, PageQuery):
    """Which jobs, and which part of the list."""


class BulkRequest(Request):
    """What to do with all jobs that match; at least one condition must be given."""

    action: BulkAction
    filter: JobSelection

    @model_validator(mode="after")
    def _require_condition(self) -> Self:
        if not self.filter.model_dump(exclude_none=True):
            raise ValueError("filter has no condition; give at least one, such as state, kind, label or created_before")
        return self


class FeedQuery(Request):
    """Where a project's event stream continues."""

    after: int | None = Field(
        None, ge=0, le=LARGEST_POSITION, description="The id of the last event seen; by default only new ones follow"
    )
    limit: int = Field(100, ge=1, le=1000, description="Most events of an answer that is not a stream")


class LogLinesQuery(Request):
    """Which lines of a job's output."""

    first: int | None = Field(None, ge=1, le=LARGEST_SEQUENCE, description="Number of the first line; else the end")
    limit: int = Field(500, ge=1, le=5000)


class LogSearchQuery(Request):
    """What to find in a job's output."""

    query: str = Field(min_length=1, max_length=500, pattern=r"^[^\x00]+$", description="Text within one line")
    start: int | None = Field(
        None, ge=1, le=LARGEST_SEQUENCE, description="Line to search from, itself included; else the first or last one"
    )
    direction: Literal["next", "previous"] = "next"
    ignore_case: bool = Field(default=False, description="Whether A matches a (ASCII letters only)")
    limit: int = Field(1, ge=1, le=1000, description="Most matches to return")
    context: int = Field(0, ge=0, le=50, description="Lines to return before and after each match")


class MetricsQuery(Request):
    """Which part of a run's series, and how finely."""

    names: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_]+(,[A-Za-z0-9_]+)*$", max_length=1000, description="By commas; all by default"
    )
    start: int | None = Field(None, ge=0, le=LARGEST_SEQUENCE, description="First step")
    stop: int | None = Field(None, ge=1, le=LARGEST_SEQUENCE, description="Step before which it ends")
    buckets: int = Field(500, ge=1, le=5000, description="Parts of equal length to divide the steps into")


class HistoryQuery(Request):
    """How finely."""

    points: int = Field(240, ge=1, le=720, description="Most points to return")


class UsageQuery(Request):
    """Which days."""

    days: int = Field(30, ge=1, le=366, description="This many days, today (UTC) included")


class NewSession(Request):
    """What a session is made from: an API key, or the token of a one-time link."""

    key: Annotated[str, StringConstraints(max_length=512)] | None = None
    link: Annotated[str, StringConstraints(max_length=512)] | None = None

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        if (self.key is None) == (self.link is None):
            raise ValueError("give either key or link")
        return self


class FileQuery(PageQuery):
    """Which files."""

    purpose: str | None = Field(None, pattern=r"^[a-z_-]{1,32}$")
    limit: WholeNumber = Field(20, ge=1, le=10_000)
    order: Literal["asc", "desc"] = Field("desc", description="By the time of creation")


class EventQuery(Request):
    """Which part of a job's log."""

    after: WholeNumber = Field(0, ge=0, le=LARGEST_SEQUENCE, description="The last sequence number seen")
    limit: WholeNumber = Field(20, ge=1, le=100)
    type: Literal["state", "progress", "log"] | None = None


class LogQuery(Request):
    """Which part of a job's output."""

    after: WholeNumber = Field(0, ge=0, le=LARGEST_SEQUENCE, description="X-Last-Sequence of the last answer")


class NewModel(Request):
    """Register a checkpoint directory."""

    id: ModelName
    path: Annotated[str, StringConstraints(pattern=r"^[^\x00]+$", max_length=4096)] = Field(
        description="An absolute path on the server, below an allowed model root"
    )


class PublishRequest(Request):
    """What a resume point becomes."""

    id: ModelName | None = Field(None, description="Id of the model; JOB-step-STEP by default")


class NewKey(Request):
    """Make an API key; its project is made if there is none of this name."""

    name: ShortName
    project: ShortName
    role: Literal["admin", "member"] = "member"


class DrainRequest(Request):
    """How a worker is drained."""

    deadline_seconds: float | None = Field(
        None, ge=0, le=31_536_000, description="After this, jobs that still run must yield; by default they may end"
    )


def _pair(text: str | None) -> tuple[str, str] | None:
    """Split key:value."""
    if text is None:
        return None
    key, _, value = text.partition(":")
    return key, value


def _milliseconds(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * 1000
