"""Database rows as the rest of the code sees them: frozen, typed and independent of any connection."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Literal

from jobs.state import JobState

Json = Mapping[str, Any]
BulkAction = Literal["cancel", "retry", "delete"]
ChatState = Literal["running", "succeeded", "failed", "cancelled"]
FeedEventType = Literal["state", "progress", "log", "metrics", "deleted", "bulk"]


# Reasons for waiting that go away when another job ends; see `jobs.scheduling.explanation`.
CAPACITY_CAUSES = ("slots", "devices", "device_memory", "host_memory", "nodes")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job without its spec and result, which are loaded only when needed.

    Times are milliseconds since the epoch.

    Attributes:
        source_model: The `model` of the spec, or the repository of a pull job.
        output_model: The id that the spec sets for the resulting model.
        labels: Labels from the spec.
        key_id: The API key used to submit the job; None for jobs from releases that did not record it.
        submitter: Name of that key, or an empty string.
    """

    id: str
    project_id: str
    key_id: str | None
    submitter: str
    kind: str
    state: JobState
    source_model: str
    output_model: str | None
    labels: Mapping[str, str]
    priority: int
    max_attempts: int
    charged_attempts: int
    attempt_count: int
    attempt_id: str | None
    not_before: int
    idempotency_key: str | None
    request_digest: str | None
    requirement: Json
    waiting: Json | None
    progress: Json | None
    error: Json | None
    last_event: int
    version: int
    created_at: int
    started_at: int | None
    finished_at: int | None

    @property
    def has_attempts_left(self) -> bool:
        """Whether another attempt may follow the current one."""
        return self.charged_attempts + 1 < self.max_attempts


@dataclass(frozen=True, slots=True)
class JobDetails(JobRecord):
    """A job with its spec and result.

    Attributes:
        openai: Values from a client of OpenAI's API that the spec has no field for; None for other jobs.
    """

    spec: Json
    result: Json | None
    openai: Json | None


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """The columns of a queued job that the dispatcher reads; its spec is not among them."""

    id: str
    kind: str
    priority: int
    requirement: Json
    waiting: Json | None


@dataclass(frozen=True, slots=True)
class JobFilter:
    """A filter for lists of jobs; a job must meet every condition that is set.

    Attributes:
        states: The job is in one of these states; empty allows all.
        label: Key and value of a label.
        field: Dotted name and value of a field of the spec.
        error: A substring of the error's code or message.
        id_prefix: Prefix of the job's id.
        submitter: Name of the API key used to submit the job.
        created_from: Earliest time of submission, inclusive.
        created_before: Latest time of submission, exclusive.
        metadata: Values that clients of OpenAI's API attached to the job, by key.
        from_openai: Whether to list only jobs submitted by clients of OpenAI's API.
    """

    states: Sequence[str] = ()
    kind: str | None = None
    label: tuple[str, str] | None = None
    field: tuple[str, str] | None = None
    error: str | None = None
    id_prefix: str | None = None
    submitter: str | None = None
    created_from: int | None = None
    created_before: int | None = None
    metadata: Mapping[str, str] = dataclass_field(default_factory=dict)
    from_openai: bool = False


@dataclass(frozen=True, slots=True)
class AllocationRecord:
    """The worker and devices of one node of an attempt.

    Attributes:
        node: Index of the node; node 0 publishes the result.
        deadline: Time by which the worker must claim the node or renew its lease; None once the attempt has ended.
        address: "host:port" at which node 0 waits for the other nodes; None for a single node, or until it is claimed.
    """

    attempt_id: str
    node: int
    job_id: str
    worker_id: str
    devices: Sequence[Json]
    host_bytes: int
    exclusive: bool
    claimed_at: int | None
    deadline: int | None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt to run a job; `worker_id` is the worker of its first node."""

    id: str
    job_id: str
    number: int
    worker_id: str
    state: str
    dispatched_at: int
    claimed_at: int | None
    finished_at: int | None
    error: Json | None
    accepts_chats: bool = False
    allocations: tuple[AllocationRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One entry in a job's log."""

    job_id: str
    sequence: int
    attempt_id: str | None
    type: str
    data: Json
    created_at: int


@dataclass(frozen=True, slots=True)
class ArtifactRecord:
    """One published file of a job; `key` is its key in the artifact store."""

    id: str
    job_id: str
    attempt_id: str
    path: str
    key: str
    bytes: int
    sha256: str
    created_at: int


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A checkpoint or adapter, stored at `path` under an allowed root or at `key` in the artifact store."""

    project_id: str
    id: str
    kind: str
    state: str
    base: str | None
    job_id: str | None
    path: str | None
    key: str | None
    details: Json
    created_at: int


@dataclass(frozen=True, slots=True)
class FileRecord:
    """An uploaded file, or an artifact presented as a file.

    Attributes:
        status: `processed`, or `error` if the content does not suit the purpose.
        status_details: What is wrong with the content, and on which line.
        job_id: The job that published it, if it is an artifact.
    """

    id: str
    project_id: str
    filename: str
    purpose: str
    key: str
    bytes: int
    sha256: str
    created_at: int
    expires_at: int | None
    status: str = "processed"
    status_details: str | None = None
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """A file that is uploaded in parts."""

    id: str
    project_id: str
    filename: str
    purpose: str
    bytes: int
    lifetime_seconds: int | None
    status: str
    file_id: str | None
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class UploadPartRecord:
    """One part of an upload; `key` is its key in the artifact store."""

    id: str
    upload_id: str
    key: str
    bytes: int
    created_at: int


@dataclass(frozen=True, slots=True)
class DeletionRecord:
    """One item to delete: the key of a file or folder in the artifact store, or the job itself if `key` is None.

    Attributes:
        reason: Why it is deleted; see `jobs.service.unneeded.DeletionReason`.
        not_before: Earliest time at which the leader may delete it.
        attempts: How many times the leader has tried to delete it.
    """

    id: str
    key: str | None
    job_id: str | None
    reason: str
    not_before: int
    attempts: int
    created_at: int


@dataclass(frozen=True, slots=True)
class FileFilter:
    """The files to list, and their order; if `purposes` is None, files of all purposes are listed."""

    purposes: Collection[str] | None = None
    oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker process and the machine that it manages.

    Attributes:
        devices: Devices with `type`, `index`, `uuid`, `name`, `memory_bytes` and usage measurements.
        host: `memory_bytes`, `available_bytes` and `cores` of the machine, and its optional `packages`.
        labels: Labels that the operator gave the machine.
        models: The models that its runners keep loaded.
        drain_at: Time by which the worker must release its jobs, if an administrator is draining it.
    """

    id: str
    hostname: str
    pid: int
    state: str
    kinds: list[str]
    slots: int
    devices: list[dict[str, Any]]
    started_at: int
    seen_at: int
    host: Json = dataclass_field(default_factory=dict)
    labels: Mapping[str, str] = dataclass_field(default_factory=dict)
    models: Sequence[Json] = ()
    drain_at: int | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key without its secret."""

    id: str
    project_id: str
    project: str
    name: str
    role: str
    hint: str
    created_at: int
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class FeedRecord:
    """One change in a project; positions have no gaps.

    Attributes:
        position: Position of the change in the project's feed.
        job_id: The job that changed, or None if the change does not concern a job.
    """

    project_id: str
    position: int
    job_id: str | None
    type: FeedEventType
    data: Json
    created_at: int


@dataclass(frozen=True, slots=True)
class BulkOperationRecord:
    """An operation on all jobs that match a filter.

    Attributes:
        request: The conditions as the client sent them.
        conditions: The same conditions, as the fields of a `JobFilter`.
        last_job_id: The job processed last; jobs are processed from the newest to the oldest.
        failures: `job_id`, `code` and `message` of the first jobs that could not be changed.
    """

    id: str
    project_id: str
    action: BulkAction
    request: Json
    conditions: Json
    last_job_id: str | None
    matched: int
    processed: int
    changed: int
    failed: int
    failures: Sequence[Json]
    created_at: int
    finished_at: int | None


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A browser session, or a one-time link that starts one, with the API key on whose behalf it acts."""

    key: KeyRecord
    expires_at: int


@dataclass(frozen=True, slots=True)
class WorkerSampleRecord:
    """A worker's report on its machine at one point in time."""

    at: int
    devices: Sequence[Json]
    host: Json


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """The usage of an API key on one day (days since the epoch, UTC)."""

    day: int
    key_id: str | None
    key_name: str
    jobs: int
    device_ms: int
    tokens: int


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """A request for chat or text completions.

    Attributes:
        job_id: The job whose attempt answers it.
        finish_reason: Why the first completion ended.
        first_token_ms: Milliseconds from the arrival of the request to the first text of the answer.
        expires_at: When a running chat counts as abandoned by its API process; None once it has ended.
        stored: Messages, metadata and answer, if the client asked for them to be stored.
    """

    id: str
    project_id: str
    key_id: str
    submitter: str
    model: str
    endpoint: str
    job_id: str
    attempt_id: str
    state: ChatState
    created_at: int
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_ms: int | None = None
    finished_at: int | None = None
    expires_at: int | None = None
    error: Json | None = None
    stored: Json | None = None
