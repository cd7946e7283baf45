"""The official client against a real server: with default settings, and rejecting undocumented responses."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from jobs.database.tables import Chat
from tests.api.conftest import ADMIN_KEY, Api, serving, small
from tests.api.openai.scripted_runner import ScriptedRunner
from tests.workers.deployment import RedisServer, wait_for

ASKED: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "one two"}]}
EXAMPLES = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}] * 3


def client_of(api: Api, *, strict: bool, url: str | None = None, max_retries: int = 0) -> openai.OpenAI:
    """The client with default settings, an address and a key."""
    if not strict:
        return openai.OpenAI(base_url=f"{url or api.url}/v1", api_key=ADMIN_KEY, max_retries=max_retries)
    return openai.OpenAI(
        base_url=f"{url or api.url}/v1", api_key=ADMIN_KEY, max_retries=max_retries, _strict_response_validation=True
    )


@pytest.fixture(params=[False, True], ids=["lenient", "strict"])
def client(api: Api, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    """Both kinds of client; the model `base` is registered."""
    api.register_model()
    with client_of(api, strict=request.param) as made:
        yield made


@pytest.fixture(scope="module")
def refusing_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """A client for many requests to one server that are rejected."""
    with serving(small(tmp_path_factory.mktemp("refusing") / "home")) as running:
        running.register_model()
        with client_of(running, strict=False) as made:
            yield made


@pytest.fixture
def training_file(client: openai.OpenAI) -> str:
    """The id of a file with examples."""
    return client.files.create(file=("train.jsonl", lines(EXAMPLES)), purpose="fine-tune").id


def lines(items: list[Any]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()


def request_line(custom_id: str, model: str = "base", **body: Any) -> dict[str, Any]:
    """One line of a batch file."""
    chat = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": chat}


def batch_file(client: openai.OpenAI, count: int = 3) -> str:
    """The id of a file with requests."""
    content = lines([request_line(f"request-{number}") for number in range(count)])
    return client.files.create(file=("batch.jsonl", content), purpose="batch").id


@dataclass
class Served:
    """An API whose model `base` is served by a scripted runner in a running attempt of `job_id`."""

    api: Api
    runner: ScriptedRunner
    job_id: str

    def row(self, chat_id: str) -> Any:
        """Return the row of a chat once the chat has ended."""
        query = sa.select(Chat.__table__).where(Chat.id == chat_id, Chat.state != "running")

        def look() -> Any:
            with self.api.database.reading() as connection:
                return connection.execute(query).first()

        return wait_for("the end of the chat", look)

    def open_rows(self) -> list[Any]:
        """Rows of chats that have not ended."""
        with self.api.database.reading() as connection:
            return list(connection.execute(sa.select(Chat.id).where(Chat.state == "running")))


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for this module."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Served]:
    """One for all tests of this module."""
    home = tmp_path_factory.mktemp("chats") / "home"
    with serving(small(home, redis_url=redis_server.url, chats_per_project=4, stream_idle_seconds=1)) as api:
        api.register_model()
        api.register_model("cold")
        job_id = api.submit(kind="serve")["id"]
        attempt_id = api.start(job_id)
        api.report(attempt_id, accepts_chats=True)
        with ScriptedRunner(redis_server.url, attempt_id).running() as runner:
            yield Served(api, runner, job_id)


@pytest.fixture(params=[False, True], ids=["lenient", "strict"])
def chatter(served: Served, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    """Both kinds of client."""
    with client_of(served.api, strict=request.param) as made:
        yield made


def ask(client: openai.OpenAI, text: str, **changes: Any) -> Any:
    """Ask a chat."""
    return client.chat.completions.create(model="base", messages=[{"role": "user", "content": text}], **changes)
