"""Jobs and what belongs to one, as clients see them."""

from typing import Literal, Self, get_args

from pydantic import Field

from api.schemas.pages import Identified
from api.schemas.times import optional_seconds, seconds
from jobs.records import ArtifactRecord, AttemptRecord, EventRecord, JobRecord, Json, KeyRecord
from jobs.results import AnyResult, JobProgress, read_progress, read_result
from jobs.specs import AnySpec
from jobs.state import AttemptState, JobState

_SPECS = get_args(get_args(AnySpec)[0])
MODEL_MAKERS = frozenset(get_args(spec.model_fields["kind"].annotation)[0] for spec in _SPECS if spec.produces_model)


class JobObject(Identified):
    """A job."""

    object: Literal["job"] = "job"
    kind: str
    state: JobState
    spec: Json
    priority: int
    labels: dict[str, str]
    project: str
    created_at: int
    started_at: int | None
    finished_at: int | None
    attempts: int
    max_attempts: int
    progress: JobProgress | None
    result: AnyResult | Json | None = Field(
        description="By the job's kind; an object with other fields if another version of the service stored it"
    )
    error: Json | None
    model: str | None = Field(description="Id of the model that this job makes")
    version: int

    @classmethod
    def of(cls, job: JobRecord, caller: KeyRecord) -> Self:
        """The job as the caller, whose project it belongs to, sees it."""
        return cls(
            id=job.id,
            kind=job.kind,
            state=job.state,
            spec=job.spec,
            priority=job.priority,
            labels=job.spec.get("labels", {}),
            project=caller.project,
            created_at=seconds(job.created_at),
            started_at=optional_seconds(job.started_at),
            finished_at=optional_seconds(job.finished_at),
            attempts=job.attempt_count,
            max_attempts=job.max_attempts,
            progress=read_progress(job.progress),
            result=read_result(job.kind, job.result),
            error=job.error,
            model=job.spec.get("output_model") or job.id if job.kind in MODEL_MAKERS else None,
            version=job.version,
        )


class EventObject(Identified):
    """One entry of a job's log."""

    object: Literal["job.event"] = "job.event"
    sequence: int
    type: str
    attempt_id: str | None
    data: Json
    created_at: int

    @classmethod
    def of(cls, event: EventRecord) -> Self:
        """The event as clients see it."""
        return cls(
            id=str(event.sequence),
            sequence=event.sequence,
            type=event.type,
            attempt_id=event.attempt_id,
            data=event.data,
            created_at=seconds(event.created_at),
        )


class AttemptObject(Identified):
    """One try at a job."""

    object: Literal["job.attempt"] = "job.attempt"
    job_id: str
    number: int
    worker_id: str
    state: AttemptState
    created_at: int
    started_at: int | None
    finished_at: int | None
    error: Json | None

    @classmethod
    def of(cls, attempt: AttemptRecord) -> Self:
        """The attempt as clients see it."""
        return cls(
            id=attempt.id,
            job_id=attempt.job_id,
            number=attempt.number,
            worker_id=attempt.worker_id,
            state=AttemptState(attempt.state),
            created_at=seconds(attempt.dispatched_at),
            started_at=optional_seconds(attempt.claimed_at),
            finished_at=optional_seconds(attempt.finished_at),
            error=attempt.error,
        )


class ArtifactObject(Identified):
    """A published file of a job."""

    object: Literal["job.artifact"] = "job.artifact"
    job_id: str
    attempt_id: str
    path: str
    bytes: int
    sha256: str
    created_at: int

    @classmethod
    def of(cls, artifact: ArtifactRecord) -> Self:
        """The artifact as clients see it."""
        return cls(
            id=artifact.id,
            job_id=artifact.job_id,
            attempt_id=artifact.attempt_id,
            path=artifact.path,
            bytes=artifact.bytes,
            sha256=artifact.sha256,
            created_at=seconds(artifact.created_at),
        )
