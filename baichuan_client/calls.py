"""Functions that build the API's requests, one function per request."""

import uuid
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import httpx

from baichuan_client.call import Call, Params
from baichuan_client.errors import InvalidInputError
from baichuan_client.pages import Pages
from baichuan_client.schemas import Artifact, File, Model
from jobs.specs import JobSpec

T = TypeVar("T")

JOBS, FILES, MODELS = "/v1/jobs", "/v1/files", "/v1/models"
CONNECT_SECONDS = 5
UPLOAD_TIMEOUT = httpx.Timeout(300, connect=CONNECT_SECONDS)  # the service checks the content before it responds
STREAM_TIMEOUT = httpx.Timeout(60, connect=CONNECT_SECONDS)  # an idle stream sends a comment every 15 seconds


def job_path(job: str, part: str = "") -> str:
    """Return `/v1/jobs/{id}` or a path under it; the id remains one path segment, whatever characters it contains."""
    below = f"/{_quote(part, safe='/')}" if part else ""
    return f"{JOBS}/{_quote(job)}{below}"


def file_path(file: str, part: str = "") -> str:
    """Return `/v1/files/{id}` or a path under it."""
    return f"{FILES}/{_quote(file)}{part}"


def model_path(model: str) -> str:
    """Return `/v1/models/{id}`."""
    return f"{MODELS}/{_quote(model)}"


def submit_job(
    spec: JobSpec | Mapping[str, Any],
    read: Callable[[Any], T],
    *,
    labels: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
) -> Call[T]:
    """Return the request that submits a job; its Idempotency-Key makes it safe to retry.

    Args:
        spec: The job to run.
        read: Converts the job's JSON to the result.
        labels: Added to those of the spec.
        idempotency_key: Identifies the request; a new random key by default.
    """
    body = spec.model_dump(mode="json", exclude_unset=True) if isinstance(spec, JobSpec) else dict(spec)
    if labels:
        body["labels"] = {**(body.get("labels") or {}), **labels}
    return Call("POST", JOBS, read, headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())}, body=body)


def get_job(job: str, read: Callable[[Any], T], tag: str = "") -> Call[T]:
    """Return the request for a job; the response has status 304 if the job still has this entity tag."""
    return Call("GET", job_path(job), read, headers={"If-None-Match": tag} if tag else {})


def change_job(job: str, action: str, read: Callable[[Any], T]) -> Call[T]:
    """Return the request for an action: cancel, pause, resume or retry."""
    return Call("POST", job_path(job, action), read)


def follow_job(job: str, after: int, event_type: str | None) -> Call[Any]:
    """Return the request for the events after a sequence number, as server-sent events."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    return Call("GET", job_path(job, "events"), _ignore, {"type": event_type}, headers, timeout=STREAM_TIMEOUT)


def list_jobs(read: Callable[[Any], T], filters: Mapping[str, Any], limit: int | None) -> Pages[T]:
    """Return the requests for the jobs that match all filters."""
    return Pages(JOBS, read, filters, limit)


def read_logs(job: str) -> Call[Any]:
    """Return the request for the output of a job; the response is plain text."""
    return Call("GET", job_path(job, "logs"), _ignore)


def list_artifacts(job: str) -> Pages[Artifact]:
    """Return the requests for the published files of a job."""
    return Pages(job_path(job, "artifacts"), Artifact.model_validate)


def upload_file(name: str, content: BinaryIO, purpose: str, read: Callable[[Any], T]) -> Call[T]:
    """Return the request that uploads a file; `content` is read in chunks."""
    parts = {"purpose": (None, purpose), "file": (name, content)}
    return Call("POST", FILES, read, files=parts, timeout=UPLOAD_TIMEOUT)


def get_file(file: str) -> Call[File]:
    """Return the request for the metadata of a file."""
    return Call("GET", file_path(file), File.model_validate)


def list_files(params: Params) -> Pages[File]:
    """Return the requests for the files of the project."""
    return Pages(FILES, File.model_validate, params)


def register_model(model: str, path: str) -> Call[Model]:
    """Return the request that registers a checkpoint directory on the server as a model."""
    return Call("POST", MODELS, Model.model_validate, body={"id": model, "path": path})


def get_model(model: str) -> Call[Model]:
    """Return the request for a model."""
    return Call("GET", model_path(model), Model.model_validate)


def list_models() -> Pages[Model]:
    """Return the requests for the models of the project."""
    return Pages(MODELS, Model.model_validate)


def delete(path: str) -> Call[None]:
    """Return the request that deletes the resource at a path."""
    return Call("DELETE", path, _ignore)


def request_json(
    method: str,
    path: str,
    params: Params | None = None,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Call[Any]:
    """Return a request whose result is the JSON of the response."""
    return Call(method, path, read_as_is, params or {}, headers or {}, body)


def read_as_is(content: Any) -> Any:
    """Return JSON unchanged."""
    return content


def _ignore(_content: Any) -> None:
    """Ignore the body of a response."""


def _quote(text: str, *, safe: str = "") -> str:
    try:
        return quote(text, safe=safe)
    except UnicodeEncodeError as error:
        message = f"the id or path {text!r} contains an unpaired surrogate; use it as the service returned it"
        raise InvalidInputError(message) from error
