"""How long the client tries, without a network."""

import time

import httpx
import pytest

from baichuan_client import ApiError, UnreachableError
from baichuan_client.calls import request_json
from baichuan_client.retry_state import OUTAGE_SECONDS, Outage, RetryState

URL = "http://127.0.0.1:9"
GONE = UnreachableError(URL, "closed")


def rejection(status: int) -> ApiError:
    """An error of the service."""
    return ApiError(status, code="", title="", detail="why")


def test_only_repeatable_requests_are_repeated() -> None:
    lost, refused = httpx.ReadError("lost"), httpx.ConnectError("refused")
    reading = RetryState(request_json("GET", "/v1/jobs"), URL)
    assert [reading.delay_after_error(lost), reading.delay_after_rejection(httpx.Response(503))] == [
        0.8,
        pytest.approx(3.2),
    ]
    with pytest.raises(UnreachableError, match="lost"):
        reading.delay_after_error(lost)
    with pytest.raises(UnreachableError, match="refused"):
        RetryState(request_json("GET", "/v1/jobs"), URL).delay_after_error(refused)
    with pytest.raises(ApiError):
        RetryState(request_json("GET", "/v1/jobs"), URL).delay_after_rejection(httpx.Response(404))
    with pytest.raises(UnreachableError):
        RetryState(request_json("POST", "/v1/jobs"), URL).delay_after_error(lost)
    named = request_json("POST", "/v1/jobs", headers={"Idempotency-Key": "k"})
    assert RetryState(named, URL).delay_after_error(lost) == 0.8


def test_an_outage_is_tolerated_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    outage = Outage()
    assert [outage.note(GONE), outage.note(rejection(503)), outage.note(rejection(429))] == [0.4, 0.8, 1.6]
    now += OUTAGE_SECONDS
    assert outage.note(GONE) == 2.0
    now += 1
    with pytest.raises(UnreachableError):
        outage.note(GONE)
    outage.end()
    assert outage.note(GONE) == 0.4


def test_a_rejection_is_no_outage() -> None:
    for status in (401, 404):
        with pytest.raises(ApiError):
            Outage().note(rejection(status))
