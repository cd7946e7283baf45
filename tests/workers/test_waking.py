"""A new worker and a free slot wake the dispatcher, so that no job waits for its poll."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.health import is_dispatcher_alive
from tests.workers.deployment import RedisServer, deployment, wait_for


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A separate server, so that other dispatchers do not receive its wake-ups."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
def test_jobs_follow_each_other_without_a_poll(tmp_path: Path, own_redis: RedisServer, tiny_checkpoint: Path) -> None:
    home = tmp_path / "home"
    with deployment(home, own_redis, model_roots=str(tiny_checkpoint), poll_seconds=3600) as service:
        service.register("tiny", tiny_checkpoint)
        waiting = [service.submit(kind="generate", model="tiny", prompts=["a"], max_new_tokens=1) for _ in range(3)]
        service.start_dispatcher()
        wait_for("a leader that sleeps", lambda: is_dispatcher_alive(service.database))
        service.start_worker("waker")
        for job_id in waiting:
            service.wait(job_id)
        service.end("dispatcher", signal.SIGKILL)  # it sleeps for an hour
