"""Operations on all jobs that match a filter."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from api.schemas.jobs import JobSummary
from api.schemas.pages import IdentifiedObject
from api.schemas.times import to_optional_seconds, to_seconds
from jobs.records import BulkAction, BulkOperationRecord, Json


class BulkPreview(BaseModel):
    """The jobs that an operation would change."""

    object: Literal["bulk_operation.preview"] = "bulk_operation.preview"
    action: BulkAction
    matched: int = Field(description="Jobs that match and whose state allows the action")
    in_use: int = Field(description="Matching jobs that would not be deleted, because the models they made are in use")
    first: list[JobSummary] = Field(description="The newest few of the matching jobs")


class BulkFailure(BaseModel):
    """A job that an operation could not change."""

    job_id: str
    code: str
    message: str


class BulkOperation(IdentifiedObject):
    """An operation on all jobs that match a filter, with its progress."""

    object: Literal["bulk_operation"] = "bulk_operation"
    action: BulkAction
    filter: Json = Field(description="The conditions, as the client sent them")
    state: Literal["running", "done"]
    matched: int = Field(description="Jobs that matched when the operation was requested")
    processed: int = Field(description="Jobs processed so far")
    changed: int = Field(description="Jobs that were cancelled, queued again or deleted")
    failed: int = Field(description="Jobs that could not be changed")
    failures: list[BulkFailure] = Field(description="The first few failures, with the reason for each")
    created_at: int
    finished_at: int | None

    @classmethod
    def from_record(cls, bulk: BulkOperationRecord) -> Self:
        """Return the operation as clients see it."""
        return cls(
            id=bulk.id,
            action=bulk.action,
            filter=bulk.request,
            state="running" if bulk.finished_at is None else "done",
            matched=bulk.matched,
            processed=bulk.processed,
            changed=bulk.changed,
            failed=bulk.failed,
            failures=[BulkFailure(**failure) for failure in bulk.failures],
            created_at=to_seconds(bulk.created_at),
            finished_at=to_optional_seconds(bulk.finished_at),
        )


class JobCounts(BaseModel):
    """The number of jobs that match a filter, by state."""

    object: Literal["job.counts"] = "job.counts"
    total: int
    states: dict[str, int] = Field(description="Number of jobs by state; all states are present")
