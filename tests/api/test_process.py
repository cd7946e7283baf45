"""`python -m api` as a process: its memory, and how it stops."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from jobs.bootstrap import prepare_deployment
from tests.api.conftest import ADMIN_KEY, NO_REDIS, checkpoint, small
from tests.api.test_files import FORM, HEAD, TAIL

PATIENCE = 60


@contextmanager
def process(home: Path, **variables: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """The API in a separate process, and a client."""
    prepare_deployment(small(home), ADMIN_KEY)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "BAICHUAN_HOME": str(home), "BAICHUAN_PORT": str(port), "REDIS_URL": NO_REDIS}
    environment |= variables
    command = [sys.executable, "-m", "api"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        try:
            assert running.stderr
            while "ready on" not in running.stderr.readline():
                assert running.poll() is None
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=PATIENCE) as client:
                yield running, client
        finally:
            running.kill()


def peak_bytes(process_id: int) -> int:
    """Return the peak memory of a process."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.integration
def test_a_large_upload_and_its_download_take_little_memory(tmp_path: Path) -> None:
    size = 300 * 2**20
    with process(tmp_path / "home") as (running, client):
        client.get("/v1/jobs")
        before = peak_bytes(running.pid)
        pieces = (bytes(2**18) for _ in range(size // 2**18))
        answer = client.post("/v1/files", content=_form(pieces), headers=FORM)
        assert answer.json()["bytes"] == size
        with client.stream("GET", f"/v1/files/{answer.json()['id']}/content") as download:
            assert sum(len(piece) for piece in download.iter_bytes()) == size
        assert peak_bytes(running.pid) - before < 40 * 2**20


def _form(pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield HEAD
    yield from pieces
    yield TAIL


@pytest.mark.integration
def test_it_stops_and_ends_the_streams_it_serves(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with process(home) as (running, client):
        checkpoint(home / "models" / "base")
        model = {"id": "base", "path": str((home / "models" / "base").resolve())}
        assert client.post("/v1/models", json=model).status_code == 201
        job = client.post("/v1/jobs", json={"kind": "quantize", "model": "base"}).json()["id"]
        with client.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as stream:
            lines = stream.iter_lines()
            assert next(lines) == "id: 1"
            running.send_signal(signal.SIGTERM)
            assert "" in list(lines)  # the stream ends properly, not with a broken connection
        assert running.wait(PATIENCE) == -signal.SIGTERM
        assert running.stderr
        assert "Traceback" not in running.stderr.read()
