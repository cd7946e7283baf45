"""Every error is a problem document, regardless of where it is raised."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from api.errors import PROBLEM_TYPES
from api.main import create_app
from jobs.errors import DomainError
from tests.api.conftest import Api, problem_of, serving, small


def descendants(kind: type[DomainError]) -> Iterator[type[DomainError]]:
    """The class and all classes derived from it."""
    yield kind
    for child in kind.__subclasses__():
        yield from descendants(child)


def test_every_domain_error_has_its_row() -> None:
    assert set(PROBLEM_TYPES) == set(descendants(DomainError))
    assert len({kind.code for kind in PROBLEM_TYPES}) == len(PROBLEM_TYPES)


def test_addresses_and_methods_that_do_not_exist(shared_api: Api) -> None:
    client = shared_api.client
    for path in ("/v1", "/v2/jobs", "/v1/jobs/", "/v1/jobs/a/b/c"):
        problem_of(client.get(path), 404, "unknown_address")
    wrong = client.put("/v1/jobs")
    problem_of(wrong, 405, "method_not_allowed")
    assert {method.strip() for method in wrong.headers["Allow"].split(",")} == {"HEAD", "GET", "POST"}
    problem_of(client.get("/v1/jobs/%00"), 400, "invalid_address")
    problem_of(client.get("/v1/jobs?label=a:%00"), 400, "invalid_address")


@pytest.mark.parametrize(
    "body", [b"{", b"\xff\xfe{", b'{"a": ' + b"9" * 5000 + b"}", b"[" * 50_000, b"\xff", b'{"kind": "gen\x00"}']
)
def test_bodies_that_are_not_json(shared_api: Api, body: bytes) -> None:
    answer = shared_api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem_of(answer, 400, "malformed_json")


@pytest.mark.parametrize("body", [b"null", b"[]", b"1", b'"x"', b""])
def test_json_that_is_not_an_object(shared_api: Api, body: bytes) -> None:
    answer = shared_api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem_of(answer, 422, "invalid_request")


def test_a_body_that_does_not_say_it_is_json(shared_api: Api) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}):
        answer = shared_api.client.post("/v1/jobs", content=b"{}", headers=headers)
        assert "application/json" in problem_of(answer, 415, "unsupported_media_type")["detail"]


def test_bodies_are_limited_with_and_without_a_content_length(shared_api: Api) -> None:
    limit = shared_api.settings.max_body_bytes
    spec = {"kind": "generate", "model": "base", "prompts": ["x" * limit]}
    problem = problem_of(shared_api.client.post("/v1/jobs", json=spec), 413, "too_large")
    assert "POST /v1/files" in problem["detail"]
    pieces = iter([json.dumps(spec).encode()])
    headers = {"Content-Type": "application/json"}
    problem_of(shared_api.client.post("/v1/jobs", content=pieces, headers=headers), 413, "too_large")
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    problem_of(shared_api.client.post("/v1/models", content=bytes(limit + 1), headers=form), 413, "too_large")


def test_an_unexpected_error_is_logged_and_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = small(tmp_path / "home")
    app: FastAPI = create_app(settings)

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("the secret inside")

    with serving(settings, app) as api:
        answer = api.client.get("/boom", headers={"X-Request-ID": "mine-1"})
        problem_of(answer, 500, "internal_error")
        assert "secret" not in answer.text
        assert answer.headers["X-Request-ID"] == "mine-1"
    assert "mine-1" in caplog.text
    assert "the secret inside" in caplog.text


def test_a_broken_database_is_an_outage_not_a_fault_of_the_client(api: Api) -> None:
    with api.database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE api_keys")
    answer = api.client.get("/v1/jobs")
    problem_of(answer, 503, "database_unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert "api_keys" not in answer.text
    assert api.client.get("/healthz").json() == {"status": "ok"}


def test_requests_are_logged_in_one_line(shared_api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "api.access")
    answer = shared_api.client.get("/v1/jobs/nope?x=1", headers={"X-Request-ID": "bad id"})
    while not (lines := [record for record in caplog.records if record.name == "api.access"]):
        time.sleep(0.01)  # the line is written after the response
    line = json.loads(lines[-1].getMessage())
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/jobs/nope", 404)
    assert line["request_id"] == answer.headers["X-Request-ID"] != "bad id"
    assert line["key"].startswith("key-")
    assert line["milliseconds"] > 0
