"""Previews of training data over HTTP, by a job that the request can wait for."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api.conftest import Api, problem_of
from tests.jobs.pool import hold

PREVIEW = {
    "data_format": "text",
    "chat_format": None,
    "examples": [{"length": 1, "tokens": [{"id": 5, "piece": "a", "trained": False}]}],
    "count": 1,
    "tokens": 1,
    "trained_tokens": 0,
    "dropped_examples": 0,
    "truncated_examples": 0,
    "lengths": [{"shortest": 1, "longest": 32, "examples": 1}],
    "complete": True,
}


@pytest.fixture
def body(api: Api) -> dict[str, Any]:
    """A request for a preview."""
    api.register_model()
    made = api.client.post("/v1/files", files={"file": ("data.txt", b"a")}, data={"purpose": "fine-tune"})
    return {"model": "base", "training_file": made.json()["id"]}


def finish(api: Api, job_id: str) -> None:
    """End the job as a worker does."""
    attempt = api.start(job_id)
    with api.database.writing() as connection:
        assert hold(connection, attempt, "wrk-1", api.settings).succeed({"kind": "preview", **PREVIEW}, [], None)


def test_a_preview_is_a_job(api: Api, body: dict[str, Any]) -> None:
    answer = api.client.post("/v1/datasets/preview", json=body)
    job = answer.json()
    assert (answer.status_code, job["kind"], job["state"]) == (202, "preview", "queued")
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    finish(api, job["id"])
    assert api.client.get(answer.headers["Location"]).json()["result"] == {"kind": "preview", **PREVIEW}


def test_a_request_can_wait_for_the_result(api: Api, body: dict[str, Any]) -> None:
    def work() -> None:
        while not (queued := api.client.get("/v1/jobs", params={"kind": "preview"}).json()["data"]):
            pass
        finish(api, queued[0]["id"])

    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(work)
        answer = api.client.post("/v1/datasets/preview", json=body, headers={"Prefer": "respond-async, wait=20"})
        worker.result()
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "wait=20")
    assert answer.json()["result"]["lengths"] == PREVIEW["lengths"]


def test_a_wait_ends_with_the_job_to_poll(api: Api, body: dict[str, Any]) -> None:
    answer = api.client.post("/v1/datasets/preview", json=body, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")


def test_invalid_previews_are_rejected(api: Api, body: dict[str, Any]) -> None:
    missing = api.client.post("/v1/datasets/preview", json={**body, "model": "nobody"})
    assert problem_of(missing, 422, "unknown_model")["error"]["param"] == "model"
    wrong = api.client.post("/v1/datasets/preview", json={**body, "examples": 11})
    assert problem_of(wrong, 422, "invalid_request")["error"]["param"] == "examples"
