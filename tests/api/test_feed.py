"""The events of a project: complete, ordered and resumable, with and without Redis."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from jobs.database import OUTAGE_ERRORS
from jobs.database.tables import Feed, FeedPosition
from tests.api.conftest import Api, serving, small
from tests.api.server_sent_events import STREAM, Event, following


def last_position(api: Api) -> int:
    position: int = api.client.get("/v1/events").json()["position"]
    return position


def read_all(api: Api, after: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := api.client.get("/v1/events", params={"after": after}).json():
        assert not page["reset"]
        found += page["data"]
        if not page["data"]:
            break
        after = page["position"]
    return found


def test_a_stream_begins_now_and_has_all_later_events(either_api: Api) -> None:
    api = either_api
    api.register_model()
    api.submit()
    with following(api) as events:
        assert next(events).name == "ready"
        job = api.submit()["id"]
        attempt = api.start(job)
        api.report(attempt, "one", "two", progress={"fraction": 0.5, "stage": "x", "metrics": {}})
        api.finish(job, attempt, {"report.json": b"{}"})
        api.client.delete(f"/v1/jobs/{job}").raise_for_status()
        told = [next(events) for _ in range(7)]
    assert [event.name for event in told] == ["state"] * 3 + ["progress", "log", "state", "deleted"]
    assert [event.data["data"].get("to") for event in told[:3]] == ["queued", "dispatched", "running"]
    assert told[0].data["data"]["kind"] == "quantize"
    assert told[3].data["data"]["fraction"] == 0.5
    assert told[4].data["data"] == {"first_line": 1, "last_line": 2}
    assert {event.data["job_id"] for event in told} == {job}
    assert [event.id for event in told] == list(range(told[0].id, told[0].id + 7))


def test_other_projects_see_nothing(shared_api: Api) -> None:
    stranger = shared_api.new_key("feed of others")
    before = stranger.get("/v1/events").json()["position"]
    shared_api.submit()
    page = stranger.get("/v1/events", params={"after": before}).json()
    assert (page["data"], page["position"], page["reset"]) == ([], before, False)
    stranger.close()


@pytest.mark.slow
def test_a_hundred_reconnections_lose_and_repeat_nothing(either_api: Api) -> None:
    api = either_api
    api.register_model()
    begin = last_position(api)
    total = 400

    def submit_all() -> None:
        with api.client_for("bj-administrator-of-the-tests") as client:
            for _ in range(total):
                api.submit(client)

    writer = threading.Thread(target=submit_all)
    writer.start()
    seen: list[int] = []
    connections = 0
    while len(seen) < total:
        connections += 1
        with following(api, seen[-1] if seen else begin) as events:
            some = min(1 + connections % 6, total - len(seen))
            seen.extend(next(events).id for _ in range(some))
    writer.join()
    assert connections >= 100
    assert seen == list(range(begin + 1, begin + total + 1))


def test_concurrent_writers_leave_no_gap_and_no_late_position(either_api: Api) -> None:
    """A reader that continues after the highest position it has seen misses no event, whatever commits concurrently."""
    api = either_api
    api.register_model()
    jobs = [api.submit()["id"] for _ in range(6)]
    attempts = [api.start(job) for job in jobs]
    begin = last_position(api)
    reports = 40

    def report(attempt: str) -> None:
        done = 0
        while done < reports:
            with suppress(*OUTAGE_ERRORS):  # on SQLite a writer may time out, and retries as a worker does
                api.report(attempt, f"line {done}", progress={"fraction": 0.1, "stage": "x", "metrics": {}})
                done += 1

    writers = [threading.Thread(target=report, args=[attempt]) for attempt in attempts]
    for writer in writers:
        writer.start()
    seen: list[Event] = []
    with following(api, begin) as events:
        while len(seen) < len(jobs) * reports * 2:
            seen.append(next(events))
    for writer in writers:
        writer.join()
    assert [event.id for event in seen] == list(range(begin + 1, begin + len(seen) + 1))
    lines = [e.data["data"]["first_line"] for e in seen if e.name == "log" and e.data["job_id"] == jobs[0]]
    assert lines == list(range(1, reports + 1))


def test_a_rejected_request_leaves_no_event(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = api.submit()["id"]
    begin = last_position(api)
    refused = api.client.post(f"/v1/jobs/{job}/retry")
    assert refused.status_code == 409
    api.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    assert [event["data"]["to"] for event in read_all(api, begin)] == ["cancelled"]


def test_an_id_that_is_too_old_or_of_another_database_gets_a_reset(either_api: Api) -> None:
    api = either_api
    api.register_model()
    begin = last_position(api)
    for _ in range(5):
        api.submit()
    with api.database.writing() as connection:
        connection.execute(sa.delete(Feed).where(Feed.position <= begin + 3))
    for place in (begin, begin + 2, begin + 1000):
        with following(api, place) as events:
            first = next(events)
            assert (first.name, first.id) == ("reset", begin + 5)
        assert api.client.get("/v1/events", params={"after": place}).json()["reset"]
    with following(api, begin + 3) as events:
        assert [next(events).id for _ in range(2)] == [begin + 4, begin + 5]


def test_the_leader_keeps_a_bounded_number_of_events(either_api: Api) -> None:
    from jobs.maintenance import RetentionPass  # noqa: PLC0415 - only here
    from jobs.service.feed import MAX_KEPT_ENTRIES  # noqa: PLC0415

    api = either_api
    api.register_model()
    api.submit()
    with api.database.writing() as connection:
        connection.execute(sa.update(FeedPosition).values(last=FeedPosition.last + MAX_KEPT_ENTRIES))
    api.submit()
    RetentionPass(api.database, api.settings).expire()
    with api.database.reading() as connection:
        left = connection.execute(sa.select(sa.func.count()).select_from(Feed)).scalar_one()
    assert left == 1


def test_a_stream_ends_when_the_server_stops_or_the_key_is_revoked(api: Api) -> None:
    object.__setattr__(api.app.state.service.settings, "stream_idle_seconds", 0.01)
    key = api.client.post("/v1/keys", json={"name": "guest", "project": "default"}).json()
    with api.client_for(key["secret"]) as guest, following(api, client=guest) as events:
        assert next(events).name == "ready"
        api.client.delete(f"/v1/keys/{key['id']}").raise_for_status()
        assert list(events) == []
    object.__setattr__(api.app.state.service.settings, "stream_idle_seconds", 60)
    with following(api) as events:
        assert next(events).name == "ready"
        api.app.state.service.closing.set()
        assert list(events) == []


@pytest.mark.integration
def test_a_job_that_another_process_submits_appears_within_a_second(
    tmp_path: Path, valkey_server_factory: Callable[..., Any]
) -> None:
    """With Redis the job appears immediately; without Redis, polling SQL finds it too."""
    broker = valkey_server_factory()
    url = broker.connection_url.replace("valkey://", "redis://")
    settings = small(tmp_path / "home", redis_url=url)
    with serving(settings) as watched, serving(settings) as other:
        watched.register_model()
        with following(watched) as events:
            assert next(events).name == "ready"
            hub = watched.app.state.service.hub
            while not hub._subscribed:
                time.sleep(0.01)
            begun = time.monotonic()
            job = other.submit()["id"]
            assert next(events).data["job_id"] == job
            assert time.monotonic() - begun < 10  # 1 s on a machine without other work; see benchmarks/dashboard.py


def test_the_types_are_those_of_the_schema(shared_api: Api) -> None:
    answer = shared_api.client.get("/v1/events", headers={**STREAM, "Last-Event-ID": "x"})
    assert answer.status_code == 422
