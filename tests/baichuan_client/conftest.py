"""A running service without a worker, a worker whose steps the tests take by hand, and clients."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from baichuan_client import AsyncClient, Client, Job
from tests.baichuan_client.flaky_proxy import FlakyProxy
from tests.cli.hand_worker import HandWorker
from tests.cli.shell import Shell, Up
from tests.model_files import write_model_files

MODEL = "sample/model-1.0"
SPEC = {"kind": "generate", "model": MODEL, "prompts": ["x"]}


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell beside a running service without a worker; it has a model."""
    shell = Shell(tmp_path_factory.mktemp("client-service"))
    up = Up(shell, "--no-worker")
    try:
        up.wait_until_ready()
        write_model_files(shell.directory / ".baichuan/models/sample", hidden_size=64)
        assert shell("models", "add", MODEL, ".baichuan/models/sample").code == 0
        yield shell
    finally:
        up.end()


@pytest.fixture
def endpoint(service: Shell, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The address and the key of the service, which are also in the environment."""
    found: dict[str, str] = json.loads((service.directory / ".baichuan/client.json").read_text())
    monkeypatch.setenv("BAICHUAN_URL", found["url"])
    monkeypatch.setenv("BAICHUAN_API_KEY", found["api_key"])
    return found


@pytest.fixture
def client(endpoint: Mapping[str, str]) -> Iterator[Client]:
    """A client that takes its endpoint from the environment."""
    with Client() as client:
        yield client


@pytest.fixture
def connect_async(endpoint: Mapping[str, str]) -> Callable[[], AsyncClient]:
    """A function that makes an async client inside an event loop."""
    return AsyncClient


@pytest.fixture
def worker(service: Shell) -> Iterator[HandWorker]:
    """A worker in the service."""
    worker = HandWorker(service.directory / ".baichuan")
    yield worker
    worker.close()


@pytest.fixture
def finish(client: Client, worker: HandWorker) -> Callable[[Mapping[str, bytes]], Job]:
    """A function that makes a job which has succeeded with some files."""

    def make(files: Mapping[str, bytes]) -> Job:
        job = client.jobs.submit(SPEC)
        worker.succeed(job.id, worker.begin(job.id), files)
        return job.refresh()

    return make


@pytest.fixture
def proxy(endpoint: Mapping[str, str]) -> Iterator[FlakyProxy]:
    """A proxy in front of the service."""
    proxy = FlakyProxy(int(endpoint["url"].rpartition(":")[2]))
    yield proxy
    proxy.close()


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """A file of training data that is longer than one chunk of an upload."""
    example = {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好" * 500}]}
    path = tmp_path / "train.jsonl"
    path.write_text(f"{json.dumps(example)}\n" * 50, encoding="utf-8")
    return path
