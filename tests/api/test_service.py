"""Health, readiness, workers, and the documents."""

import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api.openapi import SNAPSHOT_PATH, render_document
from jobs.records import KeyRecord, WorkerRecord
from jobs.service import keys, workers
from tests.api.conftest import ADMIN_KEY, Api, problem_of
from tests.jobs.pool import CPU, add_worker
from tests.workers.deployment import wait_for


def test_readiness_reports_what_is_missing(api: Api) -> None:
    assert api.client.get("/readyz").json() == {"status": "ready", "database": "ok", "redis": "unreachable"}
    with api.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
    answer = api.client.get("/readyz")
    assert "baichuan init" in problem_of(answer, 503, "not_ready")["detail"]
    assert api.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("replaced", [False, True])
def test_a_database_file_that_was_deleted_is_noticed(api: Api, replaced: bool) -> None:
    """Otherwise SQLite continues to write to the deleted file, and every job accepted until the next start is lost."""
    api.register_model()
    api.submit()
    path = Path(api.database.url.database or "")
    path.rename(path.with_name("moved"))
    if replaced:
        path.touch()
    fault = "was replaced by another file" if replaced else "was deleted"
    detail = problem_of(api.client.get("/readyz"), 503, "not_ready")["detail"]
    assert f"{path} {fault}" in detail
    assert "restore a backup" in detail
    for _ in range(2):
        answer = api.client.post("/v1/jobs", json={"kind": "quantize", "model": "base"})
        problem_of(answer, 503, "database_unavailable")
    assert replaced or not path.exists(), "an empty database in its place would look like a fresh start"
    if not replaced:
        path.with_name("moved").rename(path)
        api.submit()


@contextmanager
def no_room_for_files() -> Iterator[None]:
    """Every write to a file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_database_that_takes_no_writes_is_not_ready(api: Api) -> None:
    assert api.client.get("/readyz").status_code == 200

    def unready() -> httpx.Response | None:
        with no_room_for_files():
            answer = api.client.get("/readyz")
        return answer if answer.status_code != 200 else None

    detail = problem_of(wait_for("the next probe", unready), 503, "not_ready")["detail"]
    assert "is not writable" in detail
    assert "DATABASE_URL" in detail
    assert api.client.get("/readyz").status_code == 200


def test_workers_that_reported_are_listed(either_api: Api) -> None:
    api = either_api
    for name in ("wrk-a", "wrk-b"):
        worker = WorkerRecord(name, "host", 7, "active", ["generate"], 2, [CPU], 1_700_000_000_999, 0)
        with api.database.writing() as connection:
            workers.record_heartbeat(connection, worker)
    listed = api.client.get("/v1/workers?limit=1").json()
    assert (listed["data"][0]["id"], listed["has_more"]) == ("wrk-a", True)
    (second,) = api.client.get("/v1/workers?after=wrk-a").json()["data"]
    assert (second["created_at"], second["slots"], second["devices"][0]["memory_bytes"]) == (
        1_700_000_000,
        2,
        CPU["memory_bytes"],
    )


def test_loaded_models_are_shown_and_named_to_their_project_only(either_api: Api) -> None:
    api = either_api
    with api.database.reading() as connection:
        (key,) = keys.authenticate(connection, [ADMIN_KEY])
    assert isinstance(key, KeyRecord)
    model = {"project_id": key.project_id, "id": "base", "source": "/models/base", "dtype": "auto"}
    loaded = {"adapter": None, "adapter_source": None, "key": "k", "engine": "transformers", "host_bytes": 7}
    place = {"devices": [{"uuid": "cpu-0", "bytes": 7}], "since": 1_700_000_000_999, "busy": False}
    worker = WorkerRecord("w", "host", 7, "active", ["generate"], 2, [CPU], 1, 0, models=[{**model, **loaded, **place}])
    with api.database.writing() as connection:
        workers.record_heartbeat(connection, worker)
    shown = {
        "id": "base",
        "adapter": None,
        "dtype": "auto",
        "engine": "transformers",
        "devices": [{"uuid": "cpu-0", "bytes": 7}],
        "host_bytes": 7,
        "since": 1_700_000_000,
        "state": "idle",
    }
    assert api.client.get("/v1/workers").json()["data"][0]["models"] == [shown]
    with api.new_key("another") as other:
        assert other.get("/v1/workers").json()["data"][0]["models"] == [shown | {"id": None}]


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
    assert render_document() == SNAPSHOT_PATH.read_text(encoding="utf-8"), (
        "run `python -m api.openapi` and review the difference"
    )


def test_every_operation_names_its_errors_and_asks_for_a_key() -> None:
    document = json.loads(SNAPSHOT_PATH.read_text(encoding="utf-8"))
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "application/problem+json" in operation["responses"]["default"]["content"]
            asks = path.startswith("/v1") and (path, method) != ("/v1/session", "post")
            assert ("security" in operation) is asks


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
