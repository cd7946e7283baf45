"""Detects requests that a client retries because it did not receive the response to the first one.

The `openai` client retries a request up to twice, without an Idempotency-Key, and sends the number of retries in
`x-stainless-retry-count`. If a creation request is a retry, the API first looks for what an earlier request created
(docs/decisions/0025).
"""

from dataclasses import dataclass

from fastapi import Request

RETRY_COUNT_HEADER = "x-stainless-retry-count"
TIMEOUT_HEADER = "x-stainless-read-timeout"
DEFAULT_TIMEOUT_SECONDS = 600.0  # the default of the `openai` client
MAX_TIMEOUT_SECONDS = 3600.0
MAX_BACKOFF_SECONDS = 60.0  # longer than the client waits between retries
MAX_TRIES = 100


@dataclass(frozen=True, slots=True)
class RetryHistory:
    """The number of earlier tries of a request, and the longest time that can have passed since the first one."""

    count: int
    within_seconds: float


def read_retry_history(request: Request) -> RetryHistory:
    """Read the client's retry headers; the count is 0 for clients that do not send them."""
    count = _parse_number(request.headers.get(RETRY_COUNT_HEADER), 0.0, MAX_TRIES)
    timeout = _parse_number(request.headers.get(TIMEOUT_HEADER), DEFAULT_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS)
    return RetryHistory(int(count), count * (timeout + MAX_BACKOFF_SECONDS))


def _parse_number(text: str | None, default: float, most: float) -> float:
    try:
        return min(most, max(0.0, float(text or default)))
    except ValueError:
        return default
