"""Cancel, retry and delete all matching jobs: preview, progress, and jobs that cannot be changed."""

import time
from typing import Any

import pytest

from jobs.database import now_ms
from jobs.identifiers import new_id
from jobs.maintenance import BulkOperationRunner
from jobs.repository import jobs as rows
from tests.api.conftest import Api, problem_of

FILES = {"model/config.json": b"{}", "report.json": b"{}"}


@pytest.fixture
def busy(either_api: Api) -> Api:
    """An API with the model `base`."""
    either_api.register_model()
    return either_api


def lead(api: Api) -> None:
    """Run the duties of the leader once."""
    BulkOperationRunner(api.database, api.settings).run_until_done()


def run(api: Api, action: str, **conditions: Any) -> dict[str, Any]:
    """Run an operation to its end."""
    answer = api.client.post("/v1/bulk-operations", json={"action": action, "filter": conditions})
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "running"
    lead(api)
    done: dict[str, Any] = api.client.get(answer.headers["Location"]).json()
    assert done["state"] == "done"
    return done


def state(api: Api, job: str) -> str:
    found: str = api.client.get(f"/v1/jobs/{job}").json()["state"]
    return found


def test_only_matching_jobs_are_cancelled(busy: Api) -> None:
    waiting = [busy.submit(method="nf4")["id"] for _ in range(3)]
    running = busy.submit(method="nf4")["id"]
    busy.start(running)
    other = busy.submit(method="int8")["id"]
    done = busy.submit(method="nf4")["id"]
    busy.finish(done, busy.start(done), FILES)
    wanted = {"action": "cancel", "filter": {"field": "method:nf4"}}
    preview = busy.client.post("/v1/bulk-operations/preview", json=wanted).json()
    assert (preview["matched"], [job["id"] for job in preview["first"]]) == (4, [running, *reversed(waiting)])
    assert state(busy, waiting[0]) == "queued"
    ended = run(busy, "cancel", field="method:nf4")
    assert (ended["matched"], ended["processed"], ended["changed"], ended["failed"]) == (4, 4, 4, 0)
    assert ended["filter"] == {"field": "method:nf4"}
    assert [state(busy, job) for job in [*waiting, running, other, done]] == [
        *["cancelled"] * 3,
        "cancelling",
        "queued",
        "succeeded",
    ]
    log = busy.client.get(f"/v1/jobs/{waiting[0]}/events").json()["data"]
    assert [event["data"]["to"] for event in log] == ["queued", "cancelled"]
    busy.submit(method="nf4", output_model="free-again")
    again = run(busy, "retry", field="method:nf4")
    assert (again["changed"], again["failed"]) == (3, 0)
    assert {state(busy, job) for job in waiting} == {"queued"}


def test_jobs_that_cannot_be_changed_are_listed(busy: Api) -> None:
    taken = busy.submit(output_model="small", labels={"x": "1"})["id"]
    free = busy.submit(output_model="other", labels={"x": "1"})["id"]
    assert run(busy, "cancel", label="x:1")["changed"] == 2
    busy.submit(output_model="small")
    ended = run(busy, "retry", label="x:1")
    assert (ended["processed"], ended["changed"], ended["failed"]) == (2, 1, 1)
    assert [(f["job_id"], f["code"]) for f in ended["failures"]] == [(taken, "name_taken")]
    assert (state(busy, taken), state(busy, free)) == ("cancelled", "queued")


def test_models_in_use_are_kept_with_their_jobs(busy: Api) -> None:
    used = busy.submit(output_model="used")["id"]
    busy.finish(used, busy.start(used), FILES)
    gone = busy.submit(output_model="gone")["id"]
    busy.finish(gone, busy.start(gone), FILES)
    busy.submit(kind="generate", model="used", prompts=["a"])
    wanted = {"action": "delete", "filter": {"state": "succeeded"}}
    preview = busy.client.post("/v1/bulk-operations/preview", json=wanted).json()
    assert (preview["matched"], preview["in_use"]) == (2, 1)
    ended = run(busy, "delete", state="succeeded")
    assert (ended["changed"], [failure["job_id"] for failure in ended["failures"]]) == (1, [used])
    problem_of(busy.client.get(f"/v1/jobs/{gone}"), 404, "not_found")
    busy.clean()
    assert not (busy.settings.home / "artifacts" / "jobs" / gone).exists()


def test_later_jobs_are_not_affected_and_an_operation_continues(busy: Api) -> None:
    old = [busy.submit()["id"] for _ in range(2)]
    answer = busy.client.post("/v1/bulk-operations", json={"action": "cancel", "filter": {"state": "queued"}})
    time.sleep(0.002)  # submissions are ordered by the millisecond
    new = busy.submit()["id"]
    lead(busy)
    assert {state(busy, job) for job in old} == {"cancelled"}
    assert state(busy, new) == "queued"
    listed = busy.client.get("/v1/bulk-operations").json()["data"]
    assert [each["id"] for each in listed] == [answer.json()["id"]]
    stranger = busy.new_key("others")
    problem_of(stranger.get(answer.headers["Location"]), 404, "not_found")
    problem_of(stranger.get("/v1/bulk-operations", params={"after": listed[0]["id"]}), 422, "unknown_cursor")
    stranger.close()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "cancel"},
        {"action": "cancel", "filter": {}},
        {"action": "stop", "filter": {"kind": "quantize"}},
        {"action": "cancel", "filter": {"label": "a"}},
    ],
)
def test_an_operation_needs_an_action_and_a_condition(shared_api: Api, body: dict[str, Any]) -> None:
    for address in ("/v1/bulk-operations", "/v1/bulk-operations/preview"):
        problem_of(shared_api.client.post(address, json=body), 422, "invalid_request")


@pytest.mark.slow
def test_ten_thousand_jobs_are_cancelled_while_others_are_served(busy: Api) -> None:
    first = busy.submit()["id"]
    with busy.database.writing() as connection:
        stored = rows.get_details(connection, [first])[first]
        shared = {
            "project_id": stored.project_id,
            "kind": "quantize",
            "state": "queued",
            "spec": dict(stored.spec),
            "priority": 0,
            "max_attempts": 1,
            "created_at": now_ms(connection),
        }
        for _ in range(20):
            rows.insert_new(connection, [{"id": new_id("job"), **shared} for _ in range(500)])
    ended = run(busy, "cancel", state="queued")
    assert (ended["matched"], ended["changed"], ended["failed"]) == (10_001, 10_001, 0)
    counts = busy.client.get("/v1/jobs/counts").json()
    assert (counts["total"], counts["states"]["cancelled"]) == (10_001, 10_001)
    ended = run(busy, "delete", state="cancelled")
    assert ended["changed"] == 10_001
    assert busy.client.get("/v1/jobs/counts").json()["total"] == 0
