"""What clients send: bodies and queries, whose unknown fields are refused."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from jobs.specs.fields import ModelName
from jobs.state import JobState

LARGEST_SEQUENCE = 2**31 - 1
LARGEST_TIME = 10**11  # seconds; in milliseconds it fits into the database's 64 bits
LABEL_PATTERN = r"^[A-Za-z0-9_.-]{1,63}:[^\x00]{0,128}$"
Cursor = Annotated[str, StringConstraints(min_length=1, max_length=128)]
ShortName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", min_length=1, max_length=128)]


class Request(BaseModel):
    """A body or a query whose unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageQuery(Request):
    """Which part of a list."""

    after: Cursor | None = Field(None, description="The id of the last item seen")
    limit: int = Field(20, ge=1, le=100)


class JobQuery(PageQuery):
    """Which jobs."""

    state: JobState | None = None
    kind: str | None = Field(None, pattern=r"^[a-z]{1,32}$")
    label: str | None = Field(None, pattern=LABEL_PATTERN, description="key:value")


class JobSelectionRequest(Request):
    """Which final jobs to delete; all given conditions must hold, and at least one must be given."""

    state: Literal["succeeded", "failed", "cancelled"] | None = None
    kind: str | None = Field(None, pattern=r"^[a-z]{1,32}$")
    label: str | None = Field(None, pattern=LABEL_PATTERN, description="key:value")
    before: int | None = Field(
        None, ge=0, le=LARGEST_TIME, description="Only jobs created before this time, in seconds since the epoch"
    )
    dry_run: bool = Field(default=False, description="Only count")

    @model_validator(mode="after")
    def _require_condition(self) -> Self:
        if not any((self.state, self.kind, self.label, self.before is not None)):
            raise ValueError("give at least one of state, kind, label and before; they choose the jobs to delete")
        return self


class FileQuery(PageQuery):
    """Which files."""

    purpose: str | None = Field(None, pattern=r"^[a-z_-]{1,32}$")
    limit: int = Field(20, ge=1, le=10_000)
    order: Literal["asc", "desc"] = Field("desc", description="By the time of creation")


class EventQuery(Request):
    """Which part of a job's log."""

    after: int = Field(0, ge=0, le=LARGEST_SEQUENCE, description="The last sequence number seen")
    limit: int = Field(20, ge=1, le=100)
    type: Literal["state", "progress", "log"] | None = None


class LogQuery(Request):
    """Which part of a job's output."""

    after: int = Field(0, ge=0, le=LARGEST_SEQUENCE, description="The value of X-Last-Sequence of the last answer")


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
