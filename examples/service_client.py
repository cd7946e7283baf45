"""A minimal client of the service: register a model, upload a file, run a job, download its results."""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

POLL_SECONDS = 0.2


class JobFailedError(Exception):
    """A job failed or was cancelled."""


class ServiceClient:
    """A session with the service at BAICHUAN_URL, with the key in BAICHUAN_API_KEY (`baichuan up --` sets both)."""

    def __init__(self) -> None:
        url, key = os.environ["BAICHUAN_URL"], os.environ["BAICHUAN_API_KEY"]
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._http.close()

    def register(self, name: str, directory: Path) -> str:
        """Register a checkpoint directory of the server as a model and return its id."""
        answer = self._http.post("/v1/models", json={"id": name, "path": str(directory.resolve())})
        return str(_read_body(answer)["id"])

    def upload(self, path: Path, purpose: str) -> str:
        """Upload a file and return its id."""
        with path.open("rb") as file:
            answer = self._http.post("/v1/files", files={"file": (path.name, file)}, data={"purpose": purpose})
        return str(_read_body(answer)["id"])

    def run(self, **spec: Any) -> dict[str, Any]:
        """Submit a job and wait until it has ended.

        Raises:
            JobFailedError: The job did not succeed; the message contains the reason.
        """
        job = _read_body(self._http.post("/v1/jobs", json=spec))
        while job["state"] not in ("succeeded", "failed", "cancelled"):
            time.sleep(POLL_SECONDS)
            job = _read_body(self._http.get(f"/v1/jobs/{job['id']}"))
        if job["state"] != "succeeded":
            raise JobFailedError(f"{job['kind']} job {job['id']} {job['state']}: {job['error']}")
        return job

    def completions(self, job: dict[str, Any]) -> list[str]:
        """Return the completions of a generate job, in the order of its prompts."""
        lines = self._http.get(f"/v1/jobs/{job['id']}/artifacts/completions.jsonl").raise_for_status().text
        return [json.loads(line)["completion"] for line in lines.splitlines()]

    def download(self, job: dict[str, Any], folder: Path) -> Path:
        """Download all artifacts of a job into a folder."""
        page = _read_body(self._http.get(f"/v1/jobs/{job['id']}/artifacts", params={"limit": 100}))
        for artifact in page["data"]:
            target = folder / artifact["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._http.stream("GET", f"/v1/jobs/{job['id']}/artifacts/{artifact['path']}") as answer:
                answer.raise_for_status()
                with target.open("wb") as file:
                    for chunk in answer.iter_bytes():
                        file.write(chunk)
        return folder


def _read_body(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise SystemExit(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    body: dict[str, Any] = answer.json()
    return body
