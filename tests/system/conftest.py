"""A complete service of real processes, as started by `baichuan up`, for the tests in this directory."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.tiny_checkpoint import make_tiny_checkpoint
from tests.cli.shell import Shell, Up
from tests.workers.deployment import wait_for

FINAL = ("succeeded", "failed", "cancelled")


@dataclass
class Service:
    """A running service and an HTTP client with its key."""

    http: httpx.Client
    models: Path

    def run(self, **spec: Any) -> dict[str, Any]:
        """Submit a job that must be accepted, and wait for its end."""
        answer = self.http.post("/v1/jobs", json=spec)
        assert answer.status_code == 202, answer.text
        return self.finished(answer.headers["Location"])

    def finished(self, location: str) -> dict[str, Any]:
        """Wait for the end of a job."""

        def look() -> dict[str, Any] | None:
            job: dict[str, Any] = self.http.get(location).raise_for_status().json()
            return job if job["state"] in FINAL else None

        return wait_for(location, look, seconds=120)

    def register(self, name: str, folder: Path) -> httpx.Response:
        """Request the registration of a directory as a model."""
        return self.http.post("/v1/models", json={"id": name, "path": str(folder)})

    def upload(self, content: bytes, purpose: str = "fine-tune", filename: str = "data.json") -> httpx.Response:
        """Upload a file."""
        return self.http.post("/v1/files", files={"file": (filename, content)}, data={"purpose": purpose})

    def artifacts(self, job: dict[str, Any]) -> list[str]:
        """The paths of a job's artifacts."""
        page = self.http.get(f"/v1/jobs/{job['id']}/artifacts", params={"limit": 100}).raise_for_status().json()
        return [artifact["path"] for artifact in page["data"]]


def start(directory: Path, **environment: str) -> tuple[Up, Service]:
    """Start a service in a directory; the caller ends it."""
    up = Up(Shell(directory), **environment)
    url = up.wait_until_ready()
    key = json.loads((up.home / "client.json").read_text())["api_key"]
    http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    return up, Service(http, up.home / "models")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the model "tiny", shared by the tests of a module; uploads are limited to 1 MB."""
    directory = tmp_path_factory.mktemp("system")
    up, running = start(directory, BAICHUAN_MAX_UPLOAD_BYTES="1000000")
    try:
        make_tiny_checkpoint(running.models / "tiny")
        assert running.register("tiny", running.models / "tiny").status_code == 201
        yield running
    finally:
        running.http.close()
        up.end()
