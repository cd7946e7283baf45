"""A running API: uvicorn on a free port, a real database, and a simulated worker that calls the job domain."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from api.main import create_app
from api.server import build_server_config
from api.settings import ApiSettings
from jobs.artifacts import ArtifactStore, Workspace, describe_files, open_store
from jobs.bootstrap import prepare_deployment
from jobs.database import Database
from jobs.maintenance import Cleaner
from jobs.service.attempts import ProducedModel
from tests.jobs.pool import hold, start_on
from tests.model_files import write_model_files

ADMIN_KEY = "bj-administrator-of-the-tests"
NO_REDIS = "redis://127.0.0.1:1/0"


class Api:
    """A running API, its administrator's client, and access to its database and store."""

    def __init__(self, settings: ApiSettings, app: FastAPI, url: str) -> None:
        self.settings = settings
        self.app = app
        self.url = url
        self.database = Database(settings.effective_database_url)
        self.client = self.client_for(ADMIN_KEY)

    @property
    def store(self) -> ArtifactStore:
        """The artifact store, opened separately as in another process."""
        return open_store(self.settings)

    def clean(self) -> None:
        """Process the pending deletions in the store, as the leader does."""
        Cleaner(self.database, self.store, self.settings).clean()

    def client_for(self, secret: str) -> httpx.Client:
        """A client with this key."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {secret}"}, timeout=30)

    def new_key(self, project: str, role: str = "member") -> httpx.Client:
        """A client of another project."""
        made = self.client.post("/v1/keys", json={"name": "made", "project": project, "role": role})
        assert made.status_code == 201, made.text
        return self.client_for(made.json()["secret"])

    def register_model(self, name: str = "base", client: httpx.Client | None = None) -> None:
        """Register a directory that looks like a checkpoint."""
        folder = self.settings.allowed_model_roots[0] / name
        checkpoint(folder)
        made = (client or self.client).post("/v1/models", json={"id": name, "path": str(folder)})
        assert made.status_code == 201, made.text

    def submit(self, client: httpx.Client | None = None, **fields: Any) -> dict[str, Any]:
        """Submit a job that must be accepted, by default a quantize job."""
        spec = {"kind": "quantize", "model": "base", **fields}
        answer = (client or self.client).post("/v1/jobs", json=spec)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def start(self, job_id: str) -> str:
        """Dispatch and claim a job as a worker does; returns the attempt's id."""
        with self.database.writing() as connection:
            return start_on(connection, job_id, "wrk-1", self.settings)

    def report(
        self,
        attempt: str,
        *lines: str,
        progress: Mapping[str, Any] | None = None,
        accepts_chats: bool | None = None,
    ) -> None:
        """Renew the lease with output, progress, and whether chats may come."""
        entries: list[tuple[str, Mapping[str, Any]]] = [
            ("log", {"stream": "stdout", "lines": [line]}) for line in lines
        ]
        if progress:
            entries.append(("progress", progress))
        with self.database.writing() as connection:
            hold(connection, attempt, "wrk-1", self.settings).renew(progress, entries, accepts_chats=accepts_chats)

    def finish(
        self,
        job_id: str,
        attempt: str,
        files: Mapping[str, bytes],
        result: Mapping[str, Any] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish files, those below model/ as a model, and succeed."""
        store, key = self.store, Workspace(job_id, attempt).output
        folder = store.open_workspace(key)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        stored = describe_files(folder)
        store.publish(key)
        made = any(name.startswith("model/") for name in files)
        model = ProducedModel("model", "checkpoint", details or {}) if made else None
        with self.database.writing() as connection:
            held = hold(connection, attempt, "wrk-1", self.settings)
            assert held.succeed(result or {"files": len(stored)}, stored, model)


def checkpoint(folder: Path) -> None:
    """A directory that can be registered as a checkpoint."""
    write_model_files(folder)


@contextmanager
def serving(settings: ApiSettings, app: FastAPI | None = None) -> Iterator[Api]:
    """Migrate, and serve the API from a thread."""
    prepare_deployment(settings, ADMIN_KEY)
    app = app or create_app(settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does this only for its own sockets
        server = uvicorn.Server(build_server_config(app, settings))
        started = threading.Event()
        thread = threading.Thread(target=asyncio.run, args=[_serve(server, listener, started)])
        thread.start()
        assert started.wait(10)
        api = Api(settings, app, f"http://127.0.0.1:{listener.getsockname()[1]}")
        try:
            yield api
        finally:
            api.client.close()
            api.database.close()
            server.should_exit = True
            thread.join()


async def _serve(server: uvicorn.Server, listener: socket.socket, started: threading.Event) -> None:
    task = asyncio.create_task(server.serve([listener]))
    while not server.started and not task.done():
        await asyncio.wait([task], timeout=0.005)
    started.set()
    await task


def small(home: Path, **changes: Any) -> ApiSettings:
    """Settings of a deployment without Redis, with limits that are low enough for tests."""
    defaults: dict[str, Any] = {
        "home": home,
        "redis_url": NO_REDIS,
        "backoff_seconds": 0,
        "max_body_bytes": 100_000,
        "max_upload_bytes": 3_000_000,
        "stream_poll_seconds": 0.01,
        "shutdown_seconds": 1,
    }
    return ApiSettings(**{**defaults, **changes})


@pytest.fixture(scope="session")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API on SQLite with the model `base`, shared by all tests that clean up after themselves."""
    with serving(small(tmp_path_factory.mktemp("shared") / "home")) as running:
        running.register_model()
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> ApiSettings:
    """See `small`."""
    return small(tmp_path / "home")


@pytest.fixture
def api(settings: ApiSettings) -> Iterator[Api]:
    """The API on SQLite."""
    with serving(settings) as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def either_api(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Api]:
    """The API on each database."""
    url = request.getfixturevalue("postgresql_url") if request.param == "postgresql" else ""
    with serving(small(tmp_path / "home", database_url=url)) as running:
        yield running


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem document of a response, after checking that it is complete."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["type"] == f"urn:baichuan:problem:{code}"
    assert body["status"] == status
    assert body["title"]
    assert body["instance"] == f"urn:baichuan:request:{answer.headers['X-Request-ID']}"
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"] == body["detail"]
    assert body["error"]["code"] == code
    return body
