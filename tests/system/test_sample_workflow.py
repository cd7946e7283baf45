"""The kinds of job over HTTP, in real processes, on the embedded default and on PostgreSQL with Redis."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.shell import Shell, Up
from tests.workers.deployment import RedisServer

pytestmark = pytest.mark.slow  # trains, converts and evaluates

ROOT = Path(__file__).parents[2]
STEPS = ("register", "noise", "finetune", "taught", "convert", "nf4", "calibrated", "int8", "gguf")


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A Redis that `up` did not start."""
    server = RedisServer(tmp_path)
    server.start()
    yield server.url
    server.stop()


def run_workflow(directory: Path, **environment: str) -> str:
    """Run `make demo` in a separate directory, and return its output."""
    up = Up(
        Shell(directory), "--", sys.executable, "-m", "examples.sample_workflow", PYTHONPATH=str(ROOT), **environment
    )
    try:
        code = up.process.wait(240)
    finally:
        up.end()
    assert code == 0, up.printed()
    return up.printed()


def test_on_sqlite_with_the_embedded_server(tmp_path: Path) -> None:
    printed = run_workflow(tmp_path)
    assert [step for step in STEPS if f"ok   {step} " in printed] == list(STEPS)
    assert (tmp_path / ".baichuan" / "redis" / "url").exists()


@pytest.mark.alone
@pytest.mark.integration
def test_on_postgresql_with_redis(tmp_path: Path, postgresql_url: str, redis_url: str) -> None:
    printed = run_workflow(tmp_path, DATABASE_URL=postgresql_url, REDIS_URL=redis_url)
    assert [step for step in STEPS if f"ok   {step} " in printed] == list(STEPS)
    assert not (tmp_path / ".baichuan" / "jobs.sqlite3").exists()
    assert not (tmp_path / ".baichuan" / "redis" / "url").exists()
