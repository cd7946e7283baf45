"""Operations on chats: find the attempts that can answer, submit jobs that serve a model, and keep one row per chat."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.database.journal import add_usage
from jobs.errors import DomainError, NotFoundError, UnknownCursorError
from jobs.records import ChatRecord, ChatState, JobFilter, JobRecord, Json
from jobs.repository import attempts, chats, jobs, models, search
from jobs.scheduling import LoadedModel
from jobs.service.references import resolve_models
from jobs.service.serving_attempts import ServingAttempt, find_serving_attempts
from jobs.service.submission import Submission, submit
from jobs.specs import ServeSpec

MAX_SEARCHED_JOBS = 50  # how many of the project's newest serve jobs to search for one with this model
RENEWAL_TIMEOUT_MS = 120_000  # a running chat not renewed for this long is abandoned; API processes renew more often
API_LOST_ERROR = {"code": "api_lost", "message": "the API process that was answering this chat has stopped"}


@dataclass(frozen=True, slots=True)
class ServingStatus:
    """The attempts that answer chats for a model.

    Attributes:
        model_key: See `LoadedModel.key`.
        attempts: Attempts that accept chats for the model.
        job: The job whose id was given, if any.
    """

    model_key: str
    attempts: Sequence[ServingAttempt]
    job: JobRecord | None


@dataclass(frozen=True, slots=True)
class NewChat:
    """A chat that an attempt has begun to answer; `submitter` is the name of the API key."""

    id: str
    project_id: str
    key_id: str
    submitter: str
    model: str
    endpoint: str
    job_id: str
    attempt_id: str


@dataclass(frozen=True, slots=True)
class EndedChat:
    """The outcome of a chat.

    Attributes:
        milliseconds: Milliseconds since the request arrived.
        first_token_ms: Milliseconds from the arrival of the request to the first text of the answer.
        stored: Messages, metadata and answer, if the client asked for them to be stored.
    """

    chat: NewChat
    state: ChatState
    milliseconds: int
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_ms: int | None = None
    error: Json | None = None
    stored: Json | None = None


def get_serving_status(
    connection: Connection, project_id: str, spec: ServeSpec, job_id: str | None = None
) -> ServingStatus:
    """Return the attempts that accept chats for a model, and the job with the given id.

    Raises:
        UnknownModelError: The model or the adapter does not exist, or is still being made.
        InvalidRequestError: They cannot be used for serving.
    """
    key = _find_model(connection, project_id, spec).key
    job = jobs.get_many(connection, [job_id]).get(job_id) if job_id else None
    return ServingStatus(key, find_serving_attempts(connection, project_id, key), job)


def _find_model(connection: Connection, project_id: str, spec: ServeSpec) -> LoadedModel:
    known = models.get_many(connection, project_id, set(spec.list_model_references().values()))
    named = {field: known[name] for field, name in spec.list_model_references().items() if name in known}
    wanted = {model.base for model in named.values() if model.kind == "adapter" and model.base}
    bases = models.get_many(connection, project_id, wanted) if wanted else {}
    made_for = {field: bases[model.base] for field, model in named.items() if model.base in bases}
    resolved = resolve_models(spec, named, made_for)
    return LoadedModel.from_records(resolved["model"], resolved.get("adapter"), spec.loaded_dtype)


def ensure_serve_job(connection: Connection, submission: Submission, model_key: str) -> JobRecord:
    """Return the job that will serve a model; submit one if there is none.

    Raises:
        DomainError: The new job is rejected.
    """
    wanted = JobFilter(kind=submission.spec.kind)
    newest = search.list_page(connection, submission.project_id, wanted, after=None, limit=MAX_SEARCHED_JOBS)
    for job in newest:
        if not job.state.is_final and job.requirement.get("model") == model_key:
            return job
    # Two API processes that see the same jobs choose the same idempotency key, so only one of them submits a job.
    last = newest[0].id if newest else "none"
    repeatable = replace(submission, idempotency_key=f"serve {model_key} after {last}", request={"serve": model_key})
    (answer,) = submit(connection, [repeatable])
    if isinstance(answer, DomainError):
        raise answer
    return answer.job


def begin(connection: Connection, new: Sequence[NewChat]) -> list[None]:
    """Record that chats are running."""
    now = now_ms(connection)
    chats.add(
        connection, [_to_record(each, "running", created_at=now, expires_at=now + RENEWAL_TIMEOUT_MS) for each in new]
    )
    return [None] * len(new)


def end(connection: Connection, ended: Sequence[EndedChat]) -> list[None]:
    """Record how chats have ended, and add their tokens to the usage of their API keys."""
    now = now_ms(connection)
    rows = []
    for each in ended:
        row = _to_record(each.chat, each.state, created_at=now - each.milliseconds)
        changes = {name: getattr(each, name) for name in OUTCOME_FIELDS}
        rows.append(replace(row, finished_at=now, **changes))
        tokens = each.prompt_tokens + each.completion_tokens
        add_usage(connection, each.chat.project_id, each.chat.key_id, now=now, tokens=tokens)
    chats.end(connection, rows)
    return [None] * len(ended)


OUTCOME_FIELDS = ("finish_reason", "prompt_tokens", "completion_tokens", "first_token_ms", "error", "stored")


def _to_record(new: NewChat, state: ChatState, *, created_at: int, expires_at: int | None = None) -> ChatRecord:
    return ChatRecord(
        id=new.id,
        project_id=new.project_id,
        key_id=new.key_id,
        submitter=new.submitter,
        model=new.model,
        endpoint=new.endpoint,
        job_id=new.job_id,
        attempt_id=new.attempt_id,
        state=state,
        created_at=created_at,
        expires_at=expires_at,
    )


def renew(connection: Connection, ids: Collection[str]) -> None:
    """Renew the running chats of an API process, so that they do not count as abandoned."""
    chats.renew(connection, ids, expires_at=now_ms(connection) + RENEWAL_TIMEOUT_MS)


def fail_abandoned(connection: Connection) -> int:
    """Fail running chats whose API process has died; return how many there were."""
    return chats.fail_expired(connection, now=now_ms(connection), error=API_LOST_ERROR)


def is_attempt_open(connection: Connection, attempt_id: str) -> bool:
    """Whether an attempt has not ended yet."""
    attempt = attempts.get(connection, attempt_id)
    return attempt is not None and attempt.state in attempts.OPEN_STATES


def get_stored(connection: Connection, project_id: str, chat_id: str) -> ChatRecord:
    """Return a chat with its text.

    Raises:
        NotFoundError: The project has no chat with this id, or its text is not stored.
    """
    found = chats.get(connection, project_id, chat_id)
    if found is None or found.stored is None:
        message = f"no chat {chat_id} is stored; only chats with `store: true` are stored"
        raise NotFoundError(message, param="completion_id")
    return found


def list_stored(
    connection: Connection, project_id: str, *, after: str | None, limit: int, oldest_first: bool
) -> list[ChatRecord]:
    """Return up to `limit` stored chats of a project.

    Raises:
        UnknownCursorError: `after` is not a chat of the project.
    """
    if after is not None and chats.get(connection, project_id, after) is None:
        raise UnknownCursorError(after)
    return chats.list_stored(connection, project_id, after=after, limit=limit, oldest_first=oldest_first)


def set_metadata(connection: Connection, project_id: str, chat_id: str, metadata: Json | None) -> ChatRecord:
    """Overwrite the metadata of a stored chat.

    Raises:
        NotFoundError: No such chat is stored.
    """
    found = get_stored(connection, project_id, chat_id)
    stored = {**(found.stored or {}), "metadata": None if metadata is None else dict(metadata)}
    chats.set_stored(connection, chat_id, stored)
    return replace(found, stored=stored)


def delete_stored(connection: Connection, project_id: str, chat_id: str) -> None:
    """Delete the text of a chat; its usage is still counted.

    Raises:
        NotFoundError: No such chat is stored.
    """
    get_stored(connection, project_id, chat_id)
    chats.set_stored(connection, chat_id, None)
