"""Jobs with their events, attempts and artifacts, as clients see them."""

from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, Field

from api.schemas.pages import IdentifiedObject
from api.schemas.times import to_optional_seconds, to_seconds
from jobs.records import (
    AllocationRecord,
    ArtifactRecord,
    AttemptRecord,
    EventRecord,
    JobDetails,
    JobRecord,
    Json,
    KeyRecord,
)
from jobs.results import AnyResult, JobProgress, read_progress, read_result
from jobs.scheduling import Requirement
from jobs.specs import AnySpec
from jobs.state import AttemptState, JobState

_SPEC_CLASSES = get_args(get_args(AnySpec)[0])
MODEL_PRODUCING_KINDS = frozenset(
    get_args(spec.model_fields["kind"].annotation)[0] for spec in _SPEC_CLASSES if spec.produces_model
)


class RequirementObject(BaseModel):
    """The requirements of a job, fixed at submission."""

    nodes: int = Field(description="Number of machines that run the job together")
    devices: int = Field(description="Devices on each node; with 0, the job uses only host memory")
    device_memory_bytes: int = Field(description="Memory on each device without which the job cannot run")
    reserve_bytes: int = Field(description="Memory to reserve on each device for the longest inputs of the spec")
    host_memory_bytes: int = Field(description="Host memory on each node")
    exclusive: bool = Field(description="Whether no other job may use the devices at the same time")
    labels: dict[str, str] = Field(description="Labels that the worker must have")
    workers: list[str] = Field([], description="Workers that may run the job; if empty, all may")

    @classmethod
    def from_row(cls, stored: Json) -> Self:
        """Return the requirement stored in a job's row."""
        return cls(**(stored or Requirement.from_row(stored).to_row()))


class HolderObject(BaseModel):
    """A job that holds memory that another job is waiting for."""

    job_id: str
    bytes: int


class WaitingObject(BaseModel):
    """The reason why a queued job is waiting."""

    cause: str = Field(description="Keyword for the reason: no_worker, kind, labels, slots, devices, …, or backoff")
    message: str = Field(description="The reason in one sentence with numbers")
    worker_id: str | None = Field(description="The worker that comes closest to meeting the requirements")
    free_bytes: int | None = Field(
        description="Free memory on that worker's best device, or on its host if host memory is what is missing"
    )
    holders: list[HolderObject] = Field(description="Jobs that hold the missing resource, largest first")


class JobSummary(IdentifiedObject):
    """A job in a list."""

    object: Literal["job"] = "job"
    kind: str
    state: JobState
    source_model: str = Field(
        description="Id of the model that the spec names as `model`; for a pull job, the name of the repository"
    )
    priority: int
    labels: dict[str, str]
    project: str
    submitter: str = Field(description="Name of the API key that submitted the job; empty if not recorded")
    created_at: int
    started_at: int | None
    finished_at: int | None
    attempts: int
    max_attempts: int
    requirements: RequirementObject
    waiting: WaitingObject | None = Field(description="Why a queued job has not started")
    progress: JobProgress | None
    error: Json | None
    model: str | None = Field(description="Id of the model that this job produces")
    version: int

    @classmethod
    def from_record(cls, job: JobRecord, caller: KeyRecord) -> Self:
        """Return the job as the caller sees it in a list; the job must belong to the caller's project."""
        return cls(**_build_summary_fields(job, caller))


class JobObject(JobSummary):
    """A job with its spec and result."""

    spec: Json = Field(
        description="The spec as sent, with all defaults. Prompts or conversations that are too long to be included"
        " are null; `inline_input` then has their `field`, `count`, `bytes`, `sha256` and a `preview`, and"
        " `GET /v1/jobs/{id}/input` returns them."
    )
    result: AnyResult | Json | None = Field(
        description="Depends on the job's kind; has other fields if another version of the service stored it"
    )

    @classmethod
    def from_details(cls, job: JobDetails, caller: KeyRecord) -> Self:
        """Return the job with its spec and result as the caller sees it; it must belong to the caller's project."""
        return cls(**_build_summary_fields(job, caller), spec=job.spec, result=read_result(job.kind, job.result))


def _build_summary_fields(job: JobRecord, caller: KeyRecord) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "source_model": job.source_model,
        "priority": job.priority,
        "labels": job.labels,
        "project": caller.project,
        "submitter": job.submitter,
        "created_at": to_seconds(job.created_at),
        "started_at": to_optional_seconds(job.started_at),
        "finished_at": to_optional_seconds(job.finished_at),
        "attempts": job.attempt_count,
        "max_attempts": job.max_attempts,
        "requirements": RequirementObject.from_row(job.requirement),
        "waiting": WaitingObject(**job.waiting) if job.waiting else None,
        "progress": read_progress(job.progress),
        "error": job.error,
        "model": job.output_model or job.id if job.kind in MODEL_PRODUCING_KINDS else None,
        "version": job.version,
    }


class EventObject(IdentifiedObject):
    """One entry of a job's log."""

    object: Literal["job.event"] = "job.event"
    sequence: int
    type: str
    attempt_id: str | None
    data: Json
    created_at: int

    @classmethod
    def from_record(cls, event: EventRecord) -> Self:
        """Return the event as clients see it."""
        return cls(
            id=str(event.sequence),
            sequence=event.sequence,
            type=event.type,
            attempt_id=event.attempt_id,
            data=event.data,
            created_at=to_seconds(event.created_at),
        )


class ReservedDevice(BaseModel):
    """A device that an attempt uses, and the memory reserved there for the attempt."""

    uuid: str
    index: int
    reserved_bytes: int


class AllocationObject(BaseModel):
    """The worker and the devices on which one node of an attempt runs."""

    node: int
    worker: str
    devices: list[ReservedDevice]
    host_bytes: int

    @classmethod
    def from_record(cls, allocation: AllocationRecord) -> Self:
        """Return the allocation as clients see it."""
        devices = [ReservedDevice(**device) for device in allocation.devices]
        return cls(node=allocation.node, worker=allocation.worker_id, devices=devices, host_bytes=allocation.host_bytes)


class AttemptObject(IdentifiedObject):
    """One attempt to run a job."""

    object: Literal["job.attempt"] = "job.attempt"
    job_id: str
    number: int
    worker_id: str
    state: AttemptState
    created_at: int
    started_at: int | None
    finished_at: int | None
    error: Json | None
    allocations: list[AllocationObject] = Field(description="Where the attempt runs or ran, with one entry per node")

    @classmethod
    def from_record(cls, attempt: AttemptRecord) -> Self:
        """Return the attempt as clients see it."""
        return cls(
            id=attempt.id,
            job_id=attempt.job_id,
            number=attempt.number,
            worker_id=attempt.worker_id,
            state=AttemptState(attempt.state),
            created_at=to_seconds(attempt.dispatched_at),
            started_at=to_optional_seconds(attempt.claimed_at),
            finished_at=to_optional_seconds(attempt.finished_at),
            error=attempt.error,
            allocations=[AllocationObject.from_record(each) for each in attempt.allocations],
        )


class ArtifactObject(IdentifiedObject):
    """A file that a job has published."""

    object: Literal["job.artifact"] = "job.artifact"
    job_id: str
    attempt_id: str
    path: str
    bytes: int
    sha256: str
    created_at: int

    @classmethod
    def from_record(cls, artifact: ArtifactRecord) -> Self:
        """Return the artifact as clients see it."""
        return cls(
            id=artifact.id,
            job_id=artifact.job_id,
            attempt_id=artifact.attempt_id,
            path=artifact.path,
            bytes=artifact.bytes,
            sha256=artifact.sha256,
            created_at=to_seconds(artifact.created_at),
        )
