"""The load of machines over the last hour, and the usage of API keys."""

from typing import Any

import sqlalchemy as sa

from jobs.database import now_ms
from jobs.database.tables import WorkerSample
from jobs.maintenance import RetentionPass
from jobs.records import WorkerRecord
from jobs.repository import allocations, attempts
from jobs.service import workers
from jobs.state import Event
from tests.api.conftest import Api, problem_of
from tests.jobs.pool import hold

GPU = {"type": "cuda", "index": 0, "uuid": "GPU-1", "name": "H", "memory_bytes": 2**30, "temperature": None}


def report(api: Api, used: int, utilization: int | None) -> None:
    device = {**GPU, "used_bytes": used, "utilization": utilization}
    host = {"memory_bytes": 2**40, "available_bytes": 2**39 - used, "cores": 8}
    with api.database.writing() as connection:
        workers.record_heartbeat(
            connection, WorkerRecord("gpu-box", "h", 1, "active", [], 1, [device], 1, 1, host=host)
        )


def test_a_machine_is_shown_over_time_in_few_points(either_api: Api) -> None:
    api = either_api
    with api.database.writing() as connection:
        now = now_ms(connection)
        for minute in range(-70, 0):
            device = {**GPU, "used_bytes": 100 + minute, "utilization": minute % 7}
            sample = {"worker_id": "gpu-box", "at": now + minute * 60_000, "devices": [device], "host": {}}
            connection.execute(sa.insert(WorkerSample).values(**sample))
    report(api, 5, None)
    report(api, 7, 90)
    found = api.client.get("/v1/workers/gpu-box/history", params={"points": 10}).json()
    assert 10 <= len(found["times"]) <= 11
    assert found["times"] == sorted(found["times"])
    (device,) = found["devices"]
    assert (device["uuid"], device["memory_bytes"], device["type"]) == ("GPU-1", 2**30, "cuda")
    assert device["used_bytes"][-1] == 99
    assert device["utilization"][-1] == 90
    assert set(device["temperature"]) == {None}
    assert found["host_memory_bytes"] == 2**40
    assert found["host_available_bytes"][-1] == 2**39 - 7
    problem_of(api.client.get("/v1/workers/nobody/history"), 404, "not_found")
    RetentionPass(api.database, api.settings).expire()
    with api.database.reading() as connection:
        kept = connection.execute(sa.select(sa.func.count()).select_from(WorkerSample)).scalar_one()
    assert 59 <= kept <= 62


def usage(api: Api) -> dict[str, Any]:
    entries = api.client.get("/v1/usage").json()["data"]
    return {entry["key_name"]: entry for entry in entries}


def test_usage_is_counted_by_key_and_survives_the_job(either_api: Api) -> None:
    api = either_api
    api.register_model()
    secret = api.client.post("/v1/keys", json={"name": "guest", "project": "default"}).json()["secret"]
    with api.client_for(secret) as guest:
        job = api.submit(guest)["id"]
    api.submit()
    attempt = api.start(job)
    with api.database.writing() as connection:
        device = [
            {"uuid": "GPU-1", "index": 0, "reserved_bytes": 1},
            {"uuid": "GPU-2", "index": 1, "reserved_bytes": 1},
        ]
        allocations.update(connection, attempt, {"devices": device})
        held = hold(connection, attempt, "wrk-1", api.settings)
        began = held.attempt.claimed_at or 0
        held.succeed({"prompt_tokens": 7, "completion_tokens": 5}, [], None)
    assert (usage(api)["guest"]["jobs"], usage(api)["guest"]["tokens"]) == (1, 12)
    seconds = usage(api)["guest"]["device_seconds"]
    assert seconds == 2 * (held.now - began) / 1000
    assert (usage(api)["first key"]["jobs"], usage(api)["first key"]["tokens"]) == (1, 0)
    api.client.delete(f"/v1/jobs/{job}").raise_for_status()
    assert usage(api)["guest"]["tokens"] == 12
    stranger = api.new_key("others")
    assert stranger.get("/v1/usage").json()["data"] == []
    stranger.close()


def test_attempts_that_end_without_success_use_devices_too(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = api.submit()["id"]
    attempt = api.start(job)
    with api.database.writing() as connection:
        allocations.update(connection, attempt, {"devices": [{"uuid": "a", "index": 0, "reserved_bytes": 1}]})
        held = hold(connection, attempt, "wrk-1", api.settings)
        held.end(Event.FAIL, {"code": "x", "message": "y"})
        ended = attempts.get(connection, attempt)
    entry = usage(api)["first key"]
    assert ended is not None
    assert entry["device_seconds"] == ((ended.finished_at or 0) - (ended.claimed_at or 0)) / 1000
    assert len(entry["day"]) == len("2026-11-28")
