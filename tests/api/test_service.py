"""Health, readiness, workers, and the documents."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from api.openapi import SNAPSHOT, render
from jobs.database import Database
from jobs.records import WorkerRecord
from jobs.service import workers
from tests.api.conftest import Api, problem_of
from tests.jobs.pool import CPU, add_worker


def test_readiness_says_what_is_missing(api: Api) -> None:
    assert api.client.get("/readyz").json() == {"status": "ready", "database": "ok", "redis": "unreachable"}
    with api.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
    answer = api.client.get("/readyz")
    assert "baichuan init" in problem_of(answer, 503, "not_ready")["detail"]
    assert api.client.get("/healthz").status_code == 200


def test_a_database_that_went_away(api: Api) -> None:
    Database.close(api.app.state.service.database)
    path = Path(api.database.url.database or "")
    api.database.close()
    path.rename(path.with_name("moved"))
    path.mkdir()
    assert "DATABASE_URL" in problem_of(api.client.get("/readyz"), 503, "not_ready")["detail"]


def test_workers_that_reported_are_listed(either_api: Api) -> None:
    api = either_api
    for name in ("wrk-a", "wrk-b"):
        worker = WorkerRecord(name, "host", 7, "active", ["generate"], 2, [CPU], 1_700_000_000_999, 0)
        with api.database.writing() as connection:
            workers.report(connection, worker)
    listed = api.client.get("/v1/workers?limit=1").json()
    assert (listed["data"][0]["id"], listed["has_more"]) == ("wrk-a", True)
    (second,) = api.client.get("/v1/workers?after=wrk-a").json()["data"]
    assert (second["created_at"], second["slots"], second["devices"][0]["memory_bytes"]) == (
        1_700_000_000,
        2,
        CPU["memory_bytes"],
    )


def test_the_documents_are_served_without_a_key(shared_api: Api) -> None:
    for path in ("/docs", "/openapi.json", "/healthz"):
        request = shared_api.client.build_request("GET", path)
        request.headers.pop("Authorization")
        assert shared_api.client.send(request).status_code == 200


def test_the_documentation_needs_nothing_from_the_internet(shared_api: Api) -> None:
    page = shared_api.client.get("/docs").text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(sources) >= 2
    for source in sources:
        assert source.startswith("/"), source
        assert shared_api.client.get(source).status_code == 200


def test_the_openapi_document_equals_its_snapshot() -> None:
    assert render() == SNAPSHOT.read_text(encoding="utf-8"), "run `python -m api.openapi` and review the difference"


def test_every_operation_names_its_errors_and_asks_for_a_key() -> None:
    document = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"]
            assert ("security" in operation) is path.startswith("/v1")


@pytest.mark.parametrize("module", ["api.main", "api.openapi"])
def test_the_api_starts_without_the_engine(module: str) -> None:
    heavy = "torch", "transformers", "baichuan_core", "workers"
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_administrator_drains_a_worker_and_takes_it_back(either_api: Api) -> None:
    api = either_api
    add_worker(api.database, "wrk-a")
    with api.new_key("team") as member:
        assert member.post("/v1/workers/wrk-a/drain").status_code == 403
    drained = api.client.post("/v1/workers/wrk-a/drain", json={"deadline_seconds": 60}).json()
    assert (drained["state"], drained["drain_at"] > 1_700_000_000) == ("draining", True)
    active = api.client.post("/v1/workers/wrk-a/undrain").json()
    assert (active["state"], active["drain_at"]) == ("active", None)
    missing = api.client.post("/v1/workers/wrk-b/drain")
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "worker_id")
