"""Objects that the service returns; fields that only newer services know are kept."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from jobs.results import AnyResult, JobProgress, read_progress, read_result
from jobs.state import JobState

FINAL_STATES = frozenset(str(state) for state in JobState if state.is_final)

Json = dict[str, Any]


class Resource(BaseModel):
    """A JSON object of the API."""

    model_config = ConfigDict(extra="allow")


class JobErrorData(Resource):
    """The reason why a job failed."""

    code: str
    message: str


class Requirement(Resource):
    """What a job requires of each machine that runs it, fixed at submission."""

    nodes: int = 1
    devices: int = 0
    device_memory_bytes: int = 0
    reserve_bytes: int = 0
    host_memory_bytes: int = 0
    exclusive: bool = False
    labels: dict[str, str] = Field(default_factory=dict)
    workers: list[str] = Field(default_factory=list)


class Holder(Resource):
    """A job that holds memory for which another job is waiting."""

    job_id: str
    bytes: int


class WaitingReason(Resource):
    """The reason why a queued job is waiting."""

    cause: str
    message: str
    worker_id: str | None = None
    free_bytes: int | None = None
    holders: list[Holder] = Field(default_factory=list)


class JobData(Resource):
    """The fields of a job. Times are seconds since the epoch.

    Attributes:
        spec: The spec with all defaults; None if the job comes from a list.
        result: An object from `jobs.results`, or plain JSON if another version of the service made it; None in lists.
        model: Id of the model that the job produces, if its kind produces one.
        source_model: Id of the model that the spec names as `model`.
    """

    id: str
    object: str = "job"
    kind: str
    state: str
    source_model: str = ""
    priority: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    project: str = ""
    submitter: str = ""
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    attempts: int = 0
    max_attempts: int = 1
    requirements: Requirement | None = None
    waiting: WaitingReason | None = None
    progress: JobProgress | None = None
    error: JobErrorData | None = None
    model: str | None = None
    version: int = 0
    spec: Json | None = None
    result: AnyResult | Json | None = None

    @field_validator("progress", mode="plain")
    @classmethod
    def _read_progress(cls, value: Any) -> JobProgress | None:
        return value if isinstance(value, JobProgress) else read_progress(value)

    @field_validator("result", mode="plain")
    @classmethod
    def _read_result(cls, value: Any, info: ValidationInfo) -> Any:
        return read_result(str(info.data.get("kind")), value) if isinstance(value, dict) else value

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINAL_STATES


class Event(Resource):
    """One entry in a job's event log.

    Attributes:
        type: `state` (data: from, to, event), `progress` (fraction, stage, metrics) or `log` (stream, lines).
        sequence: Sequence number of the event; a stream can continue after it.
    """

    id: str
    object: str = "job.event"
    sequence: int
    type: str
    attempt_id: str | None = None
    data: Json
    created_at: int

    @property
    def ends_job(self) -> bool:
        """Whether the job ended with this event."""
        return self.type == "state" and self.data.get("to") in FINAL_STATES


class Artifact(Resource):
    """A published file of a job."""

    id: str
    object: str = "job.artifact"
    job_id: str
    attempt_id: str
    path: str
    bytes: int
    sha256: str
    created_at: int


class File(Resource):
    """An uploaded file, or an artifact of a job; `status_details` says why the status is `error`."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    sha256: str
    status: str = "processed"
    status_details: str | None = None
    expires_at: int | None = None
    job_id: str | None = None


class Model(Resource):
    """A checkpoint or adapter that specs can name; `path` is set for registered directories, `job_id` for results."""

    id: str
    object: str = "model"
    created: int
    owned_by: str
    kind: str
    base: str | None = None
    job_id: str | None = None
    path: str | None = None
    details: Json = Field(default_factory=dict)
