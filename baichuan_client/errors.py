"""Errors raised by the client.

ClientError
 ├── ConfigurationError     the address or the API key is missing or unusable
 ├── InvalidInputError      a value cannot be encoded in a request
 ├── UnreachableError       the service did not respond
 ├── InvalidResponseError   the response is not from this service
 ├── ApiError               the service rejected the request or failed
 ├── DownloadError          the received bytes do not match the file, or it does not exist
 └── JobError               a job ended without succeeding
      ├── JobFailedError
      └── JobCancelledError
"""

from typing import Any, Self

import httpx

from baichuan_client.schemas import JobData


class ClientError(Exception):
    """Base class for all errors raised by the client."""


class ConfigurationError(ClientError):
    """The address or the API key is missing or unusable."""


class InvalidInputError(ClientError):
    """A value cannot be encoded in a request, so no request was sent; the message names the value."""


class UnreachableError(ClientError):
    """The service did not respond."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no response from {url} ({reason})")
        self.url = url
        self.reason = reason

    @classmethod
    def from_error(cls, url: str, error: httpx.RequestError) -> Self:
        """Return the error for a request that got no response."""
        return cls(url, str(error) or type(error).__name__)


class InvalidResponseError(ClientError):
    """The response is not from this service."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} did not return the expected JSON; check that BAICHUAN_URL is the service's address")
        self.url = url


class ApiError(ClientError):
    """The service rejected the request or failed; its problem document (RFC 9457) says why.

    Attributes:
        status: The HTTP status.
        code: Identifies the error, for example `unknown_model`; empty if the response has no problem document.
        title: Summary shared by all errors with this code.
        detail: The problem, and what to change.
        param: The field at fault, if there is one.
    """

    def __init__(self, status: int, *, code: str, title: str, detail: str, param: str | None = None) -> None:
        named = f"{param}: " if param and f"{param}: " not in detail else ""
        super().__init__(f"{named}{detail} (status {status})")
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.param = param

    @classmethod
    def from_response(cls, response: httpx.Response) -> Self:
        """Return the error for a response with status 4xx or 5xx whose body has been read."""
        document = _read_object(response)
        error = document.get("error")
        member = error if isinstance(error, dict) else {}
        title = str(document.get("title") or response.reason_phrase or "no reason given")
        return cls(
            response.status_code,
            code=str(member.get("code") or ""),
            title=title,
            detail=str(document.get("detail") or title),
            param=member.get("param"),
        )


class DownloadError(ClientError):
    """The received bytes do not match the file, or there is no such file."""


class JobError(ClientError):
    """A job ended without succeeding.

    Attributes:
        job: The job in its final state.
    """

    def __init__(self, message: str, job: JobData) -> None:
        super().__init__(message)
        self.job = job


class JobFailedError(JobError):
    """A job failed.

    Attributes:
        code: Identifies the error, for example `out_of_memory` or `worker_lost`.
        message: The cause, and what to change.
    """

    def __init__(self, job: JobData) -> None:
        self.code = job.error.code if job.error else "unknown"
        self.message = job.error.message if job.error else "the service gave no reason"
        super().__init__(f"{job.kind} job {job.id} failed: {self.code}: {self.message}", job)


class JobCancelledError(JobError):
    """A job was cancelled."""

    def __init__(self, job: JobData) -> None:
        super().__init__(f"{job.kind} job {job.id} was cancelled", job)


def _read_object(response: httpx.Response) -> dict[str, Any]:
    try:
        content = response.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
