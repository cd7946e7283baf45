"""Decides when to retry a request, and how long to tolerate an outage of the service."""

import time

import httpx

from baichuan_client.call import Call
from baichuan_client.errors import ApiError, UnreachableError

RETRIED_STATUSES = frozenset({429, 502, 503})
MAX_TRIES = 3
OUTAGE_SECONDS = 60.0


class RetryState:
    """The attempts at one call; repeatable calls are retried if the response is lost or the service is busy."""

    def __init__(self, call: Call[object], url: str) -> None:
        self._url = url
        self._left = MAX_TRIES if call.is_retryable else 1
        self._tries = 0

    def delay_after_error(self, error: httpx.RequestError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            UnreachableError: The request is not retried.
        """
        failure = UnreachableError.from_error(self._url, error)
        if isinstance(error, httpx.ConnectError):  # nothing is listening at the address, so do not retry
            raise failure from error
        return self._next_delay(failure)

    def delay_after_rejection(self, response: httpx.Response) -> float:
        """Return the seconds to wait before the next attempt after a response with status 4xx or 5xx.

        Raises:
            ApiError: The request is not retried.
        """
        failure = ApiError.from_response(response)
        if response.status_code not in RETRIED_STATUSES:
            raise failure
        return self._next_delay(failure)

    def _next_delay(self, failure: ApiError | UnreachableError) -> float:
        self._tries += 1
        if self._tries >= self._left:
            raise failure
        return next_delay(self._tries)


class Outage:
    """Measures how long the service has been unavailable while the caller waits for it."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._failures = 0

    def note(self, error: ApiError | UnreachableError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            ApiError: The service rejects the request, or has been failing for too long.
            UnreachableError: The service has been unreachable for too long.
        """
        if isinstance(error, ApiError) and not _is_temporary(error.status):
            raise error
        now = time.monotonic()
        self._since = self._since or now
        self._failures += 1
        if now - self._since > OUTAGE_SECONDS:
            raise error
        return min(2.0, 0.2 * 2.0**self._failures)

    def end(self) -> None:
        """Note that the service has responded."""
        self._since = None
        self._failures = 0


def _is_temporary(status: int) -> bool:
    return status >= httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.TOO_MANY_REQUESTS


def next_delay(failures: int) -> float:
    """Return the seconds to wait after this many consecutive failures."""
    return 0.2 * 4.0**failures
