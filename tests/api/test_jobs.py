"""Jobs over HTTP, on both databases."""

import json

import pytest
import sqlalchemy as sa

from jobs.database.tables import Job
from jobs.results import ConvertResult
from jobs.state import Event
from tests.api.conftest import Api, problem_of
from tests.jobs.pool import hold


def test_a_job_from_submission_to_its_model(either_api: Api) -> None:
    api = either_api
    api.register_model()
    answer = api.client.post("/v1/jobs", json={"kind": "quantize", "model": "base", "output_model": "small"})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["object"], job["state"], job["project"], job["model"]) == ("job", "queued", "default", "small")
    assert isinstance(job["created_at"], int)
    attempt = api.start(job["id"])
    api.report(attempt, "hello", progress={"fraction": 0.5, "stage": "weights", "metrics": {}})
    running = api.client.get(f"/v1/jobs/{job['id']}").json()
    assert (running["state"], running["progress"]["fraction"], running["attempts"]) == ("running", 0.5, 1)
    assert api.client.get("/v1/models/small").status_code == 404
    api.finish(job["id"], attempt, {"report.json": b"{}", "model/config.json": b"{}"})
    done = api.client.get(f"/v1/jobs/{job['id']}").json()
    assert (done["state"], done["result"], done["error"]) == ("succeeded", {"files": 2}, None)
    assert done["finished_at"] >= done["started_at"] >= done["created_at"]
    assert api.client.get("/v1/models/small").json()["job_id"] == job["id"]
    (tried,) = api.client.get(f"/v1/jobs/{job['id']}/attempts").json()["data"]
    assert (tried["id"], tried["state"], tried["number"]) == (attempt, "succeeded", 1)


def test_a_result_is_shown_with_the_fields_of_its_kind(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = api.submit(kind="convert", target="safetensors")
    attempt = api.start(job["id"])
    result = ConvertResult(target="safetensors", tensors=3, bytes_before=9, bytes_after=8).model_dump(mode="json")
    with api.database.writing() as connection:
        assert hold(connection, attempt, "wrk-1", api.settings).succeed(result, [], None)
    shown = api.client.get(f"/v1/jobs/{job['id']}").json()
    assert shown["result"] == result | {"kind": "convert"}
    (model,) = api.client.get("/v1/models").json()["data"]
    assert (model["details"]["hidden_size"], model["details"]["vocab_size"]) == (8, 16)


def test_rows_that_another_version_stored_never_fail_a_list(either_api: Api) -> None:
    api = either_api
    api.register_model()
    running, done = api.submit()["id"], api.submit(output_model="small")["id"]
    api.report(api.start(running), progress={"percent": 50})
    api.finish(done, api.start(done), {"model/config.json": b"{}"})  # its result and its details name other fields
    jobs = {job["id"]: job for job in api.client.get("/v1/jobs").json()["data"]}
    assert (jobs[running]["state"], jobs[running]["progress"]) == ("running", None)
    assert jobs[done]["state"] == "succeeded"
    assert api.client.get(f"/v1/jobs/{done}").json()["result"] == {"files": 1}
    models = {model["id"]: model for model in api.client.get("/v1/models").json()["data"]}
    assert models["small"]["details"] == {}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"kind": "generate", "prompts": ["a"], "adapter": "base"}, "adapter"),
        ({"kind": "convert", "target": "merged"}, "adapter"),
        ({"kind": "generate", "prompts": ["a"], "engine": "llama_cpp"}, "engine"),
    ],
)
def test_a_job_whose_model_does_not_fit_is_refused_with_the_field(
    shared_api: Api, fields: dict[str, object], param: str
) -> None:
    answer = shared_api.client.post("/v1/jobs", json={"model": "base", **fields})
    problem = problem_of(answer, 422, "invalid_request")
    assert problem["error"]["param"] == param
    assert "'base'" in problem["detail"]


def test_attempts_are_paged_in_their_order(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job_id = api.client.post("/v1/jobs", json={"kind": "quantize", "model": "base"}).json()["id"]
    made = []
    for _ in range(3):
        made.append(api.start(job_id))
        with api.database.writing() as connection:
            hold(connection, made[-1], "wrk-1", api.settings).end(Event.RELEASE)
    walked: list[str] = []
    while True:
        after = {"after": walked[-1]} if walked else {}
        page = api.client.get(f"/v1/jobs/{job_id}/attempts", params={"limit": 1, **after}).json()
        walked += [attempt["id"] for attempt in page["data"]]
        if not page["has_more"]:
            break
    assert walked == made


def test_repeating_a_request_with_its_key_makes_one_job(either_api: Api) -> None:
    api = either_api
    api.register_model()
    spec = {"kind": "quantize", "model": "base"}
    headers = {"Idempotency-Key": "once"}
    first = api.client.post("/v1/jobs", json=spec, headers=headers)
    again = api.client.post("/v1/jobs", json=spec, headers=headers)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    other = api.client.post("/v1/jobs", json={**spec, "method": "int8"}, headers=headers)
    assert problem_of(other, 409, "idempotency_conflict")["error"]["param"] == "Idempotency-Key"
    assert other.headers["x-should-retry"] == "false"
    assert len(api.client.get("/v1/jobs").json()["data"]) == 1
    unreadable = api.client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "x" * 256})
    assert problem_of(unreadable, 422, "invalid_request")["error"]["param"] == "idempotency-key"


def test_polling_costs_nothing_while_nothing_changes(api: Api) -> None:
    api.register_model()
    job = api.submit()
    first = api.client.get(f"/v1/jobs/{job['id']}")
    same = api.client.get(f"/v1/jobs/{job['id']}", headers={"If-None-Match": first.headers["ETag"]})
    assert (same.status_code, same.content) == (304, b"")
    api.start(job["id"])
    changed = api.client.get(f"/v1/jobs/{job['id']}", headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200
    assert changed.json()["state"] == "running"


def test_lists_are_walked_with_cursors_and_filtered(either_api: Api) -> None:
    api = either_api
    api.register_model()
    ids = [api.submit(labels={"n": str(n % 2), "colon": "a:b"})["id"] for n in range(5)]
    api.client.post(f"/v1/jobs/{ids[0]}/cancel")
    walked: list[str] = []
    page = {"has_more": True, "last_id": None}
    while page["has_more"]:
        after = {"after": page["last_id"]} if page["last_id"] else {}
        page = api.client.get("/v1/jobs", params={"limit": 2, **after}).json()
        walked += [job["id"] for job in page["data"]]
        assert (page["object"], page["first_id"]) == ("list", page["data"][0]["id"])
    assert walked == ids[::-1]

    def listed(query: str) -> list[str]:
        return [job["id"] for job in api.client.get(f"/v1/jobs?{query}").json()["data"]]

    assert listed("state=cancelled") == [ids[0]]
    assert listed("label=n:1") == [ids[3], ids[1]]
    assert listed("label=colon:a:b") == ids[::-1]
    assert listed("kind=generate") == []
    refused = api.client.get("/v1/jobs?kind=nope")
    assert refused.status_code == 422
    assert "unknown job kind 'nope'; use one of generate, quantize" in refused.json()["error"]["message"]
    assert listed("kind=quantize&state=queued&label=n:0") == [ids[4], ids[2]]


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=x", "limit"), ("state=done", "state"), ("label=x", "label"), ("stat=1", "stat")],
)
def test_an_invalid_query_is_rejected_by_name(shared_api: Api, query: str, param: str) -> None:
    assert problem_of(shared_api.client.get(f"/v1/jobs?{query}"), 422, "invalid_request")["error"]["param"] == param


def test_cancel_and_retry(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = api.submit(output_model="small")
    early = api.client.post(f"/v1/jobs/{job['id']}/retry")
    assert "only a failed or cancelled job" in problem_of(early, 409, "illegal_transition")["detail"]
    for _ in range(2):
        cancelled = api.client.post(f"/v1/jobs/{job['id']}/cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    retried = api.client.post(f"/v1/jobs/{job['id']}/retry")
    assert (retried.status_code, retried.json()["state"]) == (202, "queued")
    api.start(job["id"])
    stopping = api.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert stopping.json()["state"] == "cancelling"


@pytest.mark.parametrize(
    ("change", "param", "reason"),
    [
        ({"method": "int3"}, "method", "Input should be"),
        ({"sparsity": 0.5}, "sparsity", "not permitted"),
        ({"kind": "dream"}, "kind", "does not match"),
    ],
)
def test_a_spec_of_another_version_is_not_retried(
    either_api: Api, change: dict[str, object], param: str, reason: str
) -> None:
    api = either_api
    api.register_model()
    job = api.submit()
    api.client.post(f"/v1/jobs/{job['id']}/cancel")
    with api.database.writing() as connection:
        stored = connection.execute(sa.select(Job.spec)).scalar_one()
        connection.execute(sa.update(Job).values(spec={**stored, **change}))
    answer = api.client.post(f"/v1/jobs/{job['id']}/retry")
    problem = problem_of(answer, 409, "outdated_spec")
    assert problem["error"]["param"] == param
    assert f"{param}: " in problem["detail"]
    assert reason in problem["detail"]
    assert "submit a new job" in problem["detail"]
    assert api.client.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"


def test_specs_that_refer_to_missing_objects(api: Api) -> None:
    api.register_model()
    unknown = api.client.post("/v1/jobs", json={"kind": "quantize", "model": "nobody"})
    problem = problem_of(unknown, 422, "unknown_model")
    assert problem["error"]["param"] == "model"
    assert "POST /v1/models" in problem["detail"]
    spec = {"kind": "finetune", "model": "base", "training_file": "file-" + "0" * 26}
    missing = api.client.post("/v1/jobs", json=spec)
    assert problem_of(missing, 422, "unknown_file")["error"]["param"] == "training_file"
    api.submit(output_model="mine")
    taken = api.client.post("/v1/jobs", json={"kind": "quantize", "model": "base", "output_model": "mine"})
    assert problem_of(taken, 409, "name_taken")["error"]["param"] == "output_model"


@pytest.mark.parametrize(
    ("change", "param", "remedy"),
    [
        ({"prompts": ["fine", ""]}, "prompts.1", "at least 1 character"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temprature": 1}, "temprature", "remove it or correct its name"),
        ({"prompts": None}, None, "exactly one of prompts, conversations and input_file"),
        ({"kind": "dream"}, "kind", "must be one of generate, quantize, convert, finetune"),
        ({"kind": None}, "kind", "must be one of"),
        ({"model": None}, "model", "valid string"),
        ({"model": "../etc"}, "model", "must match"),
        ({"prompts": ["a\0b"]}, "prompts.0", "NUL"),
        ({"labels": {"a": "\0"}}, "labels.a", "NUL"),
        ({"prompts": ["\ud800"]}, "prompts.0", "valid string"),
    ],
)
def test_an_invalid_spec_is_rejected_with_the_field_and_the_remedy(
    shared_api: Api, change: dict[str, object], param: str | None, remedy: str
) -> None:
    spec = {"kind": "generate", "model": "base", "prompts": ["hello"], **change}
    body = json.dumps(spec)  # in ASCII, because httpx cannot encode the lone surrogate
    answer = shared_api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem = problem_of(answer, 422, "invalid_request")
    assert problem["error"]["param"] == param
    assert problem["errors"][0]["param"] == param
    assert remedy in problem["errors"][0]["message"]
    assert len(problem["errors"]) == 1


def test_a_limited_number_of_errors_is_listed(shared_api: Api) -> None:
    answer = shared_api.client.post("/v1/jobs", json={"kind": "generate", "model": "base", "prompts": [""] * 900})
    assert len(problem_of(answer, 422, "invalid_request")["errors"]) == 20


def test_jobs_are_accepted_while_redis_is_down(api: Api) -> None:
    api.register_model()
    assert api.client.get("/readyz").json()["redis"] == "unreachable"
    for _ in range(20):
        assert api.submit()["state"] == "queued"
    assert len(api.client.get("/v1/jobs").json()["data"]) == 20
