"""OpenAI's batch objects, built from our generate jobs."""

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from api.openai.fine_tuning_objects import find_failure
from api.schemas.dry_runs import DryRunObject
from api.schemas.jobs import JobSummary
from api.schemas.pages import IdentifiedObject
from api.schemas.times import to_optional_seconds, to_seconds
from jobs.records import ArtifactRecord, JobDetails, Json, KeyRecord
from jobs.service.openai_jobs import PublishedJob
from jobs.state import JobState

OUTPUT_FILE_NAME = "batch_output.jsonl"  # must match the file names in `workers.handlers.batch_files`
ERROR_FILE_NAME = "batch_errors.jsonl"
COMPLETION_WINDOW = "24h"
FINALIZING_STAGES = ("writing", "publishing")

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
STATUS_BY_STATE: Mapping[JobState, BatchStatus] = {
    JobState.QUEUED: "validating",
    JobState.DISPATCHED: "validating",
    JobState.PAUSED: "validating",
    JobState.RUNNING: "in_progress",
    JobState.PAUSING: "in_progress",
    JobState.CANCELLING: "cancelling",
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


class RequestCounts(BaseModel):
    """The number of requests in a batch: total, completed and failed."""

    total: int
    completed: int
    failed: int


class BatchErrorObject(BaseModel):
    """A reason why a batch has failed."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(BaseModel):
    """The reasons why a batch has failed."""

    object: Literal["list"] = "list"
    data: list[BatchErrorObject]


class InputTokensDetails(BaseModel):
    """Details of the input tokens; no tokens are cached across batches."""

    cached_tokens: int = 0


class OutputTokensDetails(BaseModel):
    """Details of the output tokens; the models have no separate reasoning tokens."""

    reasoning_tokens: int = 0


class BatchUsage(BaseModel):
    """Token usage of a completed batch."""

    input_tokens: int
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class BatchObject(IdentifiedObject):
    """A batch."""

    object: Literal["batch"] = "batch"
    completion_window: str = COMPLETION_WINDOW
    created_at: int
    endpoint: str
    input_file_id: str
    status: BatchStatus
    model: str
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    expires_at: int | None = Field(None, description="null, as batches do not expire; `timeout_seconds` limits a run")
    expired_at: int | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: BatchErrors | None = None
    metadata: dict[str, str] | None
    request_counts: RequestCounts
    usage: BatchUsage | None = None
    baichuan: Annotated[JobSummary | DryRunObject, Field(description="The job itself, with its true state")]

    @classmethod
    def from_job(cls, published: PublishedJob, caller: KeyRecord) -> Self:
        """Return a generate job as clients of OpenAI's API see it."""
        job = published.job
        finished = {
            JobState.SUCCEEDED: "completed_at",
            JobState.FAILED: "failed_at",
            JobState.CANCELLED: "cancelled_at",
        }
        times = {finished[job.state]: to_optional_seconds(job.finished_at)} if job.state in finished else {}
        return cls(
            id=job.id,
            created_at=to_seconds(job.created_at),
            input_file_id=str(job.spec.get("input_file")),
            status=_to_status(job),
            in_progress_at=to_optional_seconds(job.started_at),
            output_file_id=_find_file_id(published.artifacts, OUTPUT_FILE_NAME),
            error_file_id=_find_file_id(published.artifacts, ERROR_FILE_NAME),
            errors=_build_errors(job),
            usage=_build_usage(job),
            request_counts=_count_requests(job),
            baichuan=JobSummary.from_record(job, caller),
            **_get_stored_fields(job.openai or {}),
            **times,
        )

    @classmethod
    def from_dry_run(cls, input_file_id: str, openai: Json, found: DryRunObject) -> Self:
        """Return the object for a dry run, which creates no batch."""
        counts = RequestCounts(total=int(openai["requests"]), completed=0, failed=0)
        return cls(
            id="dry-run",
            created_at=int(time.time()),
            input_file_id=input_file_id,
            status="validating",
            request_counts=counts,
            baichuan=found,
            **_get_stored_fields(openai),
        )


def _get_stored_fields(openai: Json) -> dict[str, object]:
    return {name: openai.get(name) for name in ("endpoint", "model", "metadata")}


def _to_status(job: JobDetails) -> BatchStatus:
    is_writing = job.state is JobState.RUNNING and (job.progress or {}).get("stage") in FINALIZING_STAGES
    return "finalizing" if is_writing else STATUS_BY_STATE[job.state]


def _find_file_id(artifacts: Sequence[ArtifactRecord], path: str) -> str | None:
    return next((artifact.id for artifact in artifacts if artifact.path == path), None)


def _build_errors(job: JobDetails) -> BatchErrors | None:
    failure = find_failure(job)
    if failure is None:
        return None
    return BatchErrors(data=[BatchErrorObject(code=failure.code, message=failure.message)])


def _build_usage(job: JobDetails) -> BatchUsage | None:
    if job.state is not JobState.SUCCEEDED or job.result is None:
        return None
    read, written = int(job.result.get("prompt_tokens") or 0), int(job.result.get("completion_tokens") or 0)
    return BatchUsage(input_tokens=read, output_tokens=written, total_tokens=read + written)


def _count_requests(job: JobDetails) -> RequestCounts:
    """Return the request counts; while the job runs, they come from the latest report of the current attempt."""
    result, metrics = job.result or {}, (job.progress or {}).get("metrics") or {}
    done = result.get("requests") if job.result else metrics.get("requests_done")
    failed = int(result.get("rejected") or 0)
    total = int((job.openai or {}).get("requests") or 0)
    return RequestCounts(total=total, completed=int(done or 0), failed=failed)
