"""A running service without a worker, shared by the tests of the client commands: jobs stay queued in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.shell import Shell, Up
from tests.model_files import write_model_files

MODEL = "sample/model-1.0"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell in an empty directory."""
    return Shell(tmp_path)


@pytest.fixture
def ups() -> Iterator[list[Up]]:
    """A list for every `up` of a test, which are stopped afterwards."""
    started: list[Up] = []
    yield started
    for up in started:
        up.end()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell, and a running service without a worker."""
    shell = Shell(tmp_path_factory.mktemp("service"))
    up = Up(shell, "--no-worker")
    try:
        up.wait_until_ready()
        yield shell
    finally:
        up.end()


@pytest.fixture(scope="session")
def model(service: Shell) -> str:
    """A registered model; without a worker, its weights are never read."""
    folder = service.directory / ".baichuan/models/sample"
    write_model_files(folder, hidden_size=64)
    added = service("models", "add", MODEL, ".baichuan/models/sample")
    assert (added.code, added.out) == (0, f"{MODEL}\n"), added.err
    return MODEL
