"""The database schema. Times are integer milliseconds since the epoch, by the database's clock."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Double, ForeignKey, Index, Integer, MetaData, String, Text, false, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Json = JSON().with_variant(JSONB(), "postgresql")
# Stores None as NULL, not as the JSON value null, so that queries can use IS NOT NULL.
NullableJson = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Identifier = String(64)
Milliseconds = BigInteger


class Base(DeclarativeBase):
    """Declarative base class; constraint names are fixed so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def _build_partial_index_options(condition: str) -> dict[str, Any]:
    """Return the options of a partial index on the rows that meet a condition."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


class Project(Base):
    """A project, usually of one team; each job, file and model belongs to one."""

    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    created_at: Mapped[int] = mapped_column(Milliseconds)


class ApiKey(Base):
    """An API key, sent as a bearer token; only its SHA-256 is stored."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(16))
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    hint: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[int] = mapped_column(Milliseconds)
    revoked_at: Mapped[int | None] = mapped_column(Milliseconds)


class Job(Base):
    """One job: its spec, its state, and its result.

    `source_model`, `output_model` and `labels` duplicate fields of the spec, so that lists need not read it. In
    the table, `spec` and `result` come last, since SQLite has to read through long values to reach later columns.
    `openai` has the values from clients of OpenAI's API that the spec has no field for, such as metadata.
    """

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    key_id: Mapped[str | None] = mapped_column(Identifier)
    submitter: Mapped[str] = mapped_column(String(128), server_default=text("''"))
    kind: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))
    spec: Mapped[dict[str, Any]] = mapped_column(Json, server_default=text("'{}'"))
    source_model: Mapped[str] = mapped_column(String(128), server_default=text("''"))
    output_model: Mapped[str | None] = mapped_column(String(128))
    labels: Mapped[dict[str, str]] = mapped_column(Json, server_default=text("'{}'"))
    priority: Mapped[int] = mapped_column(Integer)
    max_attempts: Mapped[int] = mapped_column(Integer)
    charged_attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    attempt_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    attempt_id: Mapped[str | None] = mapped_column(Identifier)
    not_before: Mapped[int] = mapped_column(Milliseconds, server_default=text("0"))
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request_digest: Mapped[str | None] = mapped_column(String(64))
    requirement: Mapped[dict[str, Any]] = mapped_column(Json, server_default=text("'{}'"))
    waiting: Mapped[dict[str, Any] | None] = mapped_column(Json)
    progress: Mapped[dict[str, Any] | None] = mapped_column(Json)
    result: Mapped[dict[str, Any] | None] = mapped_column(Json)
    error: Mapped[dict[str, Any] | None] = mapped_column(Json)
    openai: Mapped[dict[str, Any] | None] = mapped_column(NullableJson)
    last_event: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    log_lines: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    created_at: Mapped[int] = mapped_column(Milliseconds)
    started_at: Mapped[int | None] = mapped_column(Milliseconds)
    finished_at: Mapped[int | None] = mapped_column(Milliseconds)

    __table_args__ = (
        Index("uq_jobs_project_id_idempotency_key", "project_id", "idempotency_key", unique=True),
        Index("ix_jobs_project_id_id", "project_id", "id"),
        Index("ix_jobs_project_id_state_id", "project_id", "state", "id"),
        Index("ix_jobs_project_id_kind_id", "project_id", "kind", "id"),
        Index("ix_jobs_queued", text("priority DESC"), "id", **_build_partial_index_options("state = 'queued'")),
    )


class JobLabel(Base):
    """One label of a job, in a separate table so that filtering lists by label can use an index."""

    __tablename__ = "job_labels"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(128), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)


class Attempt(Base):
    """One attempt to run a job. Its id is the fencing token; `worker_id` is the worker of its first node."""

    __tablename__ = "attempts"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    number: Mapped[int] = mapped_column(Integer)
    worker_id: Mapped[str] = mapped_column(Identifier)
    state: Mapped[str] = mapped_column(String(16))
    dispatched_at: Mapped[int] = mapped_column(Milliseconds)
    claimed_at: Mapped[int | None] = mapped_column(Milliseconds)
    finished_at: Mapped[int | None] = mapped_column(Milliseconds)
    error: Mapped[dict[str, Any] | None] = mapped_column(Json)
    accepts_chats: Mapped[bool] = mapped_column(server_default=false())

    __table_args__ = (Index("uq_attempts_job_id_number", "job_id", "number", unique=True),)


class Allocation(Base):
    """One node of an attempt: the worker that runs it, and the resources reserved for it there.

    `deadline` is the time by which its worker must claim it, and then renew it; it is NULL once the attempt has
    ended and its reservations are free again.
    """

    __tablename__ = "allocations"
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id"), primary_key=True)
    node: Mapped[int] = mapped_column(Integer, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    worker_id: Mapped[str] = mapped_column(Identifier)
    devices: Mapped[list[dict[str, Any]]] = mapped_column(Json)
    host_bytes: Mapped[int] = mapped_column(BigInteger)
    exclusive: Mapped[bool]
    claimed_at: Mapped[int | None] = mapped_column(Milliseconds)
    deadline: Mapped[int | None] = mapped_column(Milliseconds)
    address: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (Index("ix_allocations_open", "deadline", **_build_partial_index_options("deadline IS NOT NULL")),)


class JobEvent(Base):
    """The ordered, resumable log of a job: state changes, progress and output lines under one sequence number.

    `first_line` is the number of an entry's first output line.
    """

    __tablename__ = "events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    sequence: Mapped[int] = mapped_column(Integer, primary_key=True)
    attempt_id: Mapped[str | None] = mapped_column(Identifier)
    type: Mapped[str] = mapped_column(String(16))
    data: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[int] = mapped_column(Milliseconds)
    first_line: Mapped[int | None] = mapped_column(Integer)

    __table_args__ = (
        Index("ix_events_lines", "job_id", "first_line", **_build_partial_index_options("first_line IS NOT NULL")),
    )


class Artifact(Base):
    """One published file of a job. A file in the store without such a row is invisible."""

    __tablename__ = "artifacts"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id"), index=True)
    path: Mapped[str] = mapped_column(Text)
    key: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(Milliseconds)

    __table_args__ = (Index("uq_artifacts_job_id_path", "job_id", "path", unique=True),)


class Model(Base):
    """A checkpoint or adapter that specs can name; `pending` until the job that makes it has succeeded."""

    __tablename__ = "models"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    base: Mapped[str | None] = mapped_column(String(128))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    path: Mapped[str | None] = mapped_column(Text)
    key: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[int] = mapped_column(Milliseconds)


class File(Base):
    """An uploaded file: training data or prompts."""

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    key: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(Milliseconds)
    expires_at: Mapped[int | None] = mapped_column(Milliseconds)
    status: Mapped[str] = mapped_column(String(16), server_default="processed")
    status_details: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        Index("ix_files_project_id_id", "project_id", "id"),
        Index("ix_files_expires_at", "expires_at", **_build_partial_index_options("expires_at IS NOT NULL")),
    )


class Upload(Base):
    """A file that is uploaded in parts: pending until it is completed, cancelled or expired."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    lifetime_seconds: Mapped[int | None] = mapped_column(Integer)
    status: Mapped[str] = mapped_column(String(16))
    file_id: Mapped[str | None] = mapped_column(Identifier)
    created_at: Mapped[int] = mapped_column(Milliseconds)
    expires_at: Mapped[int] = mapped_column(Milliseconds, index=True)


class UploadPart(Base):
    """One part of an upload, whose bytes are in the artifact store."""

    __tablename__ = "upload_parts"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    key: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(Milliseconds)


class Deletion(Base):
    """One item to delete: the key of a file or folder in the artifact store, or, if `key` is NULL, the job itself."""

    __tablename__ = "deletions"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    key: Mapped[str | None] = mapped_column(Text)
    job_id: Mapped[str | None] = mapped_column(Identifier, index=True)
    reason: Mapped[str] = mapped_column(String(32))
    not_before: Mapped[int] = mapped_column(Milliseconds, index=True)
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    created_at: Mapped[int] = mapped_column(Milliseconds)


class Worker(Base):
    """A worker process, the machine that it manages, and the time by which an administrator wants it drained."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    hostname: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))
    kinds: Mapped[list[str]] = mapped_column(Json)
    slots: Mapped[int] = mapped_column(Integer)
    devices: Mapped[list[dict[str, Any]]] = mapped_column(Json)
    host: Mapped[dict[str, Any]] = mapped_column(Json, server_default=text("'{}'"))
    labels: Mapped[dict[str, str]] = mapped_column(Json, server_default=text("'{}'"))
    models: Mapped[list[dict[str, Any]]] = mapped_column(Json, server_default=text("'[]'"))
    drain_at: Mapped[int | None] = mapped_column(Milliseconds)
    started_at: Mapped[int] = mapped_column(Milliseconds)
    seen_at: Mapped[int] = mapped_column(Milliseconds, index=True)


class Lease(Base):
    """A lease, such as that of the leader: at most one holder per name until it expires."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(Identifier)
    expires_at: Mapped[int] = mapped_column(Milliseconds)


class JobSearch(Base):
    """The fields by which job lists can be filtered, besides state, kind and labels; one narrow row per job.

    `fields` has one line `name=value` per scalar in the spec, with a line break before and after each; `error` has
    the error's code and message. Scanning narrow rows is cheap.
    """

    __tablename__ = "job_search"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)
    submitter: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[int] = mapped_column(Milliseconds)
    fields: Mapped[str] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)

    __table_args__ = ({"sqlite_with_rowid": False},)


class FeedPosition(Base):
    """The last position in a project's feed; a lock on this row serializes the commits that add to the feed."""

    __tablename__ = "feed_positions"
    project_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    last: Mapped[int] = mapped_column(BigInteger)


class Feed(Base):
    """Changes in a project, in commit order and without gaps; the leader deletes the oldest ones."""

    __tablename__ = "feed"
    project_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    job_id: Mapped[str | None] = mapped_column(Identifier)
    type: Mapped[str] = mapped_column(String(16))
    data: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[int] = mapped_column(Milliseconds)

    __table_args__ = ({"sqlite_with_rowid": False},)


class MetricPoint(Base):
    """One value that a run logged; NULL stands for NaN or infinity. `attempt` is the attempt's number."""

    __tablename__ = "metric_points"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer)
    value: Mapped[float | None] = mapped_column(Double)

    __table_args__ = ({"sqlite_with_rowid": False},)


class BulkOperation(Base):
    """An operation on all jobs that match a filter, and its progress."""

    __tablename__ = "bulk_operations"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    action: Mapped[str] = mapped_column(String(16))
    request: Mapped[dict[str, Any]] = mapped_column(Json)
    conditions: Mapped[dict[str, Any]] = mapped_column(Json)
    last_job_id: Mapped[str | None] = mapped_column(Identifier)
    matched: Mapped[int] = mapped_column(Integer)
    processed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    changed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    failed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    failures: Mapped[list[dict[str, Any]]] = mapped_column(Json, server_default=text("'[]'"))
    created_at: Mapped[int] = mapped_column(Milliseconds)
    finished_at: Mapped[int | None] = mapped_column(Milliseconds)

    __table_args__ = (
        Index("ix_bulk_operations_project_id_id", "project_id", "id"),
        Index("ix_bulk_operations_unfinished", "id", **_build_partial_index_options("finished_at IS NULL")),
    )


class Session(Base):
    """A browser session or a one-time link that starts one; only the SHA-256 of its token is stored."""

    __tablename__ = "sessions"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    kind: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[int] = mapped_column(Milliseconds)
    expires_at: Mapped[int] = mapped_column(Milliseconds, index=True)


class WorkerSample(Base):
    """A worker's report on its machine in one heartbeat; kept for an hour."""

    __tablename__ = "worker_samples"
    worker_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    at: Mapped[int] = mapped_column(Milliseconds, primary_key=True)
    devices: Mapped[list[dict[str, Any]]] = mapped_column(Json)
    host: Mapped[dict[str, Any]] = mapped_column(Json)

    __table_args__ = ({"sqlite_with_rowid": False},)


class Usage(Base):
    """The usage of an API key on one day (days since the epoch, UTC); `key_id` is empty if no key was recorded."""

    __tablename__ = "usage"
    project_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    day: Mapped[int] = mapped_column(Integer, primary_key=True)
    key_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    jobs: Mapped[int] = mapped_column(Integer)
    device_ms: Mapped[int] = mapped_column(BigInteger)
    tokens: Mapped[int] = mapped_column(BigInteger)


class Chat(Base):
    """A request for chat or text completions, which a serving attempt answers immediately.

    `expires_at` is the time after which the leader considers a running chat abandoned, unless its API process renews
    it. `stored` has the messages and the answer if the client asked to store them; otherwise no text is stored.
    """

    __tablename__ = "chats"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    key_id: Mapped[str] = mapped_column(Identifier)
    submitter: Mapped[str] = mapped_column(String(128))
    model: Mapped[str] = mapped_column(String(128))
    endpoint: Mapped[str] = mapped_column(String(32))
    job_id: Mapped[str] = mapped_column(Identifier)
    attempt_id: Mapped[str] = mapped_column(Identifier)
    state: Mapped[str] = mapped_column(String(16))
    finish_reason: Mapped[str | None] = mapped_column(String(16))
    prompt_tokens: Mapped[int] = mapped_column(Integer)
    completion_tokens: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[int] = mapped_column(Milliseconds)
    first_token_ms: Mapped[int | None] = mapped_column(Integer)
    finished_at: Mapped[int | None] = mapped_column(Milliseconds)
    expires_at: Mapped[int | None] = mapped_column(Milliseconds)
    error: Mapped[dict[str, Any] | None] = mapped_column(NullableJson)
    stored: Mapped[dict[str, Any] | None] = mapped_column(NullableJson)

    __table_args__ = (
        Index("ix_chats_created_at", "created_at"),
        Index("ix_chats_expires_at", "expires_at", **_build_partial_index_options("expires_at IS NOT NULL")),
        Index("ix_chats_stored", "project_id", "id", **_build_partial_index_options("stored IS NOT NULL")),
    )
