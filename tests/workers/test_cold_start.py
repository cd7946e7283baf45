"""Workers whose fork server is still importing: they obey directives, and the fork server ends with them."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shell import alive, descendants
from tests.workers.deployment import Deployment, RedisServer, deployment, wait_for

pytestmark = pytest.mark.slow  # every test starts a worker

# Shadows the real module, which the fork server imports last.
SLOW_IMPORT = """
import importlib, os, sys, time
open({began!r}, "w").close()
while not os.path.exists({go!r}):
    time.sleep(0.02)
sys.path.remove({folder!r})
del sys.modules["bitsandbytes"]
importlib.import_module("bitsandbytes")
"""
CLOCK: dict[str, Any] = {"lease_seconds": 30, "heartbeat_seconds": 0.5, "backoff_seconds": 0}


class ColdWorker:
    """A deployment with one worker, whose fork server imports until `warm_up`."""

    def __init__(self, service: Deployment, folder: Path) -> None:
        self.service = service
        self._began, self._go = folder / "began", folder / "go"

    def start(self, **settings: str) -> int:
        """Start the worker, wait until its fork server imports, and give the process id of the worker."""
        process = self.service.start_worker("cold", **settings)
        wait_for("the imports to begin", self._began.exists)
        return process.pid

    def submit(self, **fields: Any) -> str:
        """A job that the worker has claimed and cannot start."""
        job_id = self.service.submit(kind="generate", model="tiny", prompts=["a"], max_new_tokens=1, **fields)
        self.service.wait(job_id, "running")
        return job_id

    def warm_up(self) -> None:
        """Let the imports end."""
        self._go.touch()


@pytest.fixture
def cold(
    tmp_path: Path, redis_server: RedisServer, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ColdWorker]:
    """The worker is not started yet."""
    folder = tmp_path / "modules"
    folder.mkdir()
    names = {"folder": str(folder), "began": str(folder / "began"), "go": str(folder / "go")}
    (folder / "bitsandbytes.py").write_text(SLOW_IMPORT.format(**names))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with deployment(tmp_path / "home", redis_server, model_roots=str(tiny_checkpoint), **CLOCK) as service:
        service.register("tiny", tiny_checkpoint)
        service.start_dispatcher()
        yield ColdWorker(service, folder)


def test_a_cold_worker_that_is_stopped_releases_its_job_without_counting(cold: ColdWorker) -> None:
    family = descendants(cold.start(drain_seconds="20"))
    job_id = cold.submit()
    assert cold.service.end("cold", signal.SIGTERM) == 0
    assert [attempt.state for attempt in cold.service.attempts(job_id)] == ["released"]
    job = cold.service.job(job_id)
    assert (job.state, job.charged_attempts) == ("queued", 0)
    wait_for("the end of the fork server", lambda: not alive(family))


def test_a_job_on_a_cold_worker_can_be_cancelled(cold: ColdWorker) -> None:
    cold.start()
    job_id = cold.submit()
    cold.service.cancel(job_id)
    cold.service.wait(job_id, "cancelled")
    cold.warm_up()
    follower = cold.submit()
    cold.service.wait(follower)
    assert cold.service.attempts(follower)[0].state == "succeeded"


def test_a_runner_that_does_not_start_costs_the_attempt(cold: ColdWorker) -> None:
    cold.start(start_seconds="0.5")
    job = cold.service.wait(cold.submit(max_attempts=1), "failed")
    assert job.error is not None
    assert job.error["code"] == "runner_start_timeout"
    assert "BAICHUAN_WORKER_START_SECONDS=0.5" in job.error["message"]


def test_a_fork_server_that_imports_ends_with_its_killed_worker(cold: ColdWorker) -> None:
    family = descendants(cold.start())
    assert family
    cold.service.end("cold", signal.SIGKILL)
    wait_for("the end of the fork server", lambda: not alive(family))
