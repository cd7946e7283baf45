"""Real servers for the tests of this room."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint
from tests.workers.deployment import Deployment, RedisServer, deployment


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all tests; every worker has its own queue in it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Baichuan2-style checkpoint."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def conversations() -> Path:
    """A small data set."""
    return CONVERSATIONS


@pytest.fixture(scope="session")
def service(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, tiny_checkpoint: Path
) -> Iterator[Deployment]:
    """A deployment with one worker, `main`, shared by all tests that leave it unchanged."""
    home = tmp_path_factory.mktemp("service")
    with deployment(home, redis_server, model_roots=str(tiny_checkpoint), backoff_seconds=0) as made:
        made.register("tiny", tiny_checkpoint)
        made.start_dispatcher()
        made.start_worker("main")
        yield made
