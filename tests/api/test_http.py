"""HTTP semantics at every address: HEAD, preconditions, and requests with duplicate fields."""

import gzip
import json
from typing import Any

import pytest

from api.openapi import SNAPSHOT_PATH
from tests.api.conftest import Api, problem_of
from tests.api.test_files import upload

STREAM = {"Accept": "text/event-stream"}


def test_head_answers_as_get_without_the_body(api: Api) -> None:
    api.register_model()
    job = api.submit()["id"]
    file = upload(api, b"{}").json()["id"]
    paths = [f"/v1/jobs/{job}", "/v1/jobs", "/v1/models/base", "/healthz", "/openapi.json", f"/v1/jobs/{job}/events"]
    for path in [*paths, "/v1/jobs/nope", "/v1/estimates", f"/v1/files/{file}/content"]:
        got, head = api.client.get(path), api.client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
        if got.status_code == 200:
            assert head.headers["Content-Length"] == str(len(got.content))
    assert "HEAD" in api.client.post("/healthz").headers["Allow"].split(", ")


def test_head_of_an_endless_stream_ends_and_the_connection_goes_on(api: Api) -> None:
    api.register_model()
    job = api.submit()["id"]
    for _ in range(3):
        head = api.client.head(f"/v1/jobs/{job}/events", headers=STREAM)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Type"].startswith("text/event-stream")
    assert api.client.get(f"/v1/jobs/{job}").status_code == 200


def test_a_range_means_nothing_for_head(api: Api) -> None:
    file = upload(api, b"0123456789").json()["id"]
    for asked in ("bytes=2-3", "bytes=99-"):
        head = api.client.head(f"/v1/files/{file}/content", headers={"Range": asked})
        assert (head.status_code, head.headers["Content-Length"]) == (200, "10")
        assert "Content-Range" not in head.headers


@pytest.mark.parametrize("query", ["limit=1&limit=2", "limit=1&x=&limit=1", "after=a&%61fter=a", "label=&label="])
def test_a_repeated_query_field_is_refused_by_name(shared_api: Api, query: str) -> None:
    problem = problem_of(shared_api.client.get(f"/v1/jobs?{query}"), 422, "invalid_request")
    assert problem["error"]["param"] == query.partition("=")[0]
    assert "2 times" in problem["detail"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/jobs", '{"kind": "quantize", "model": "base", "model": "other"}', "model"),
        ("/v1/jobs", '{"kind": "quantize", "model": "base", "labels": {"a": "1", "\\u0061": "1"}}', "labels.a"),
        (
            "/v1/jobs",
            '{"kind": "generate", "model": "base", "conversations": [[], [{"role": "user", "role": "user"}]]}',
            "role",
        ),
        ("/v1/estimates", '{"kind": "quantize", "kind": "quantize", "model": "base"}', "kind"),
        ("/v1/models", '{"id": "a", "id": "b", "path": "/x"}', "id"),
        ("/v1/keys", '{"name": "a", "name": "a", "project": "p"}', "name"),
        ("/v1/keys", '{"\\ud800": 1, "\\ud800": 2}', "\ud800"),
    ],
)
def test_a_repeated_json_field_is_refused_by_name(shared_api: Api, path: str, body: str, field: str) -> None:
    answer = shared_api.client.post(path, content=body, headers={"Content-Type": "application/json"})
    problem = problem_of(answer, 422, "invalid_request")
    assert problem["error"]["param"] == field
    assert "more than once" in problem["detail"]


def test_a_field_that_no_text_can_name_is_refused(shared_api: Api) -> None:
    body = '{"kind": "quantize", "model": "base", "\\ud800": 1}'
    answer = shared_api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem_of(answer, 422, "invalid_request")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have(shared_api: Api, constant: str) -> None:
    body = f'{{"kind": "generate", "model": "base", "prompts": ["NaN \\"Infinity"], "temperature": {constant}}}'
    answer = shared_api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    detail = problem_of(answer, 400, "malformed_json")["detail"]
    position = body.rindex(constant)
    assert detail == f"the body is not valid JSON: write a number or null instead of {constant} at character {position}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", "2"),
        ("priority", True),
        ("seed", "0"),
        ("seed", False),
        ("top_p", "1"),
        ("temperature", True),
        ("top_k", 1.5),
        ("prompts", "text"),
        ("prompts", [1]),
        ("labels", [["a", "b"]]),
    ],
)
def test_values_of_another_type_are_refused_by_name(shared_api: Api, field: str, value: Any) -> None:
    spec = {"kind": "generate", "model": "base", "prompts": ["a"], field: value}
    problem = problem_of(shared_api.client.post("/v1/jobs", json=spec), 422, "invalid_request")
    assert problem["error"]["param"].partition(".")[0] == field


def test_whole_numbers_are_accepted_where_fractions_are(api: Api) -> None:
    api.register_model()
    job = api.submit(kind="generate", prompts=["a"], temperature=1, top_p=1, seed=2, priority=3)
    assert (job["spec"]["temperature"], job["priority"]) == (1, 3)


@pytest.mark.parametrize("value", ["1.0", "1e1", " 1", "+1", "٣", "1_0", ""])
def test_a_whole_number_in_a_query_has_only_digits(shared_api: Api, value: str) -> None:
    problem_of(shared_api.client.get("/v1/jobs", params={"limit": value}), 422, "invalid_request")


def test_if_match_guards_changes_of_a_job(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = api.submit()["id"]
    seen = api.client.get(f"/v1/jobs/{job}").headers["ETag"]
    api.start(job)
    now = api.client.get(f"/v1/jobs/{job}").headers["ETag"]
    for tag in (seen, f"W/{now}", '"x"', ""):
        answer = api.client.post(f"/v1/jobs/{job}/cancel", headers={"If-Match": tag})
        problem = problem_of(answer, 412, "version_conflict")
        assert problem["error"]["param"] == "If-Match"
        assert "running" in problem["detail"]
    assert api.client.get(f"/v1/jobs/{job}").json()["state"] == "running"
    stopped = api.client.post(f"/v1/jobs/{job}/cancel", headers={"If-Match": f'"0", {now}'})
    assert (stopped.status_code, stopped.json()["state"]) == (202, "cancelling")
    waiting = api.submit()["id"]
    cancelled = api.client.post(f"/v1/jobs/{waiting}/cancel", headers={"If-Match": "*"})
    assert cancelled.status_code == 202
    old = api.client.post(f"/v1/jobs/{waiting}/retry", headers={"If-Match": seen})
    problem_of(old, 412, "version_conflict")
    retried = api.client.post(f"/v1/jobs/{waiting}/retry", headers={"If-Match": cancelled.headers["ETag"]})
    assert retried.json()["state"] == "queued"


def test_a_list_continues_only_after_an_item_that_it_has(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = api.submit()["id"]
    api.finish(job, api.start(job), {"report.json": b"{}"})
    with api.new_key("other") as stranger:
        api.register_model("theirs", stranger)
        theirs = api.submit(stranger, model="theirs")["id"]
    lists = ["jobs", "models", "files", "keys", "workers", f"jobs/{job}/artifacts", f"jobs/{job}/attempts"]
    for path in lists:
        for unknown in ("nope", "zzz", theirs):
            status = 400 if path == "files" else 422  # as OpenAI's clients expect it
            problem = problem_of(api.client.get(f"/v1/{path}", params={"after": unknown}), status, "unknown_cursor")
            assert problem["error"]["param"] == "after"
            assert repr(unknown) in problem["detail"]
        last = api.client.get(f"/v1/{path}").json()["last_id"]
        if last:
            assert api.client.get(f"/v1/{path}", params={"after": last}).json()["data"] == []


def test_the_document_names_every_answer() -> None:
    paths = json.loads(SNAPSHOT_PATH.read_text(encoding="utf-8"))["paths"]
    submit = paths["/v1/jobs"]["post"]["responses"]
    job = submit["202"]["content"]["application/json"]["schema"]
    assert job in submit["200"]["content"]["application/json"]["schema"]["anyOf"]
    for path in ("/v1/files/{file_id}/content", "/v1/jobs/{job_id}/artifacts/{path}"):
        answers = paths[path]["get"]["responses"]
        assert set(answers["200"]["content"]) == set(answers["206"]["content"]) == {"*/*"}
        assert "304" in answers
    form = paths["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["additionalProperties"] is False
    assert set(form["properties"]) == {"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"}


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/fine_tuning/jobs"])
def test_two_idempotency_keys_are_refused(api: Api, path: str) -> None:
    api.register_model()
    body = {"kind": "quantize", "model": "base"}
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    problem = problem_of(api.client.post(path, json=body, headers=headers), 400, "invalid_request")
    assert problem["error"]["param"] == "Idempotency-Key"
    assert api.client.get("/v1/jobs").json()["data"] == []
    same = api.client.post("/v1/jobs", json=body, headers=[("Idempotency-Key", "a")] * 2)
    assert same.status_code == 202


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/files", "/v1/chat/completions"])
@pytest.mark.parametrize("coding", ["gzip", "identity, br", "GZIP"])
def test_a_compressed_body_is_refused_with_the_remedy(shared_api: Api, path: str, coding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = shared_api.client.post(path, content=gzip.compress(b"{}"), headers=headers)
    problem = problem_of(answer, 415, "unsupported_media_type")
    assert (problem["error"]["param"], answer.headers["Accept-Encoding"]) == ("Content-Encoding", "identity")
    assert "send it uncompressed" in problem["detail"]


def test_a_body_whose_coding_is_identity_is_read(api: Api) -> None:
    api.register_model()
    answer = api.client.post(
        "/v1/jobs", json={"kind": "quantize", "model": "base"}, headers={"Content-Encoding": "identity"}
    )
    assert answer.status_code == 202
    assert api.client.get("/v1/jobs", headers={"Content-Encoding": "gzip"}).status_code == 200  # there is no body


def test_what_exists_is_not_sent_to_a_client_that_asks_for_its_absence(api: Api) -> None:
    api.register_model()
    job, file = api.submit()["id"], upload(api, b"x").json()["id"]
    unless_there = {"If-None-Match": "*"}
    for path in (
        *("/v1/jobs", f"/v1/jobs/{job}", f"/v1/jobs/{job}/events", "/v1/models/base"),
        *(f"/v1/files/{file}", f"/v1/files/{file}/content"),
    ):
        for method in ("GET", "HEAD"):
            answer = api.client.request(method, path, headers=unless_there)
            assert (answer.status_code, answer.content) == (304, b""), path
    assert api.client.get(f"/v1/jobs/{job}", headers=unless_there).headers["ETag"]
    problem_of(api.client.get("/v1/jobs/nobody", headers=unless_there), 404, "not_found")


def test_what_exists_is_not_changed_for_a_client_that_asks_for_its_absence(api: Api) -> None:
    api.register_model()
    job = api.submit()["id"]
    for method, path in (("POST", f"/v1/jobs/{job}/cancel"), ("DELETE", "/v1/models/base"), ("POST", "/v1/jobs")):
        body = {"kind": "quantize", "model": "base"} if path == "/v1/jobs" else None
        answer = api.client.request(method, path, json=body, headers={"If-None-Match": "*"})
        assert problem_of(answer, 412, "version_conflict")["error"]["param"] == "If-None-Match"
    assert [found["state"] for found in api.client.get("/v1/jobs").json()["data"]] == ["queued"]
