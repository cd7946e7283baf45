"""`client.chat.completions` and `client.completions` against a runner that plays."""

import importlib.util
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa

from jobs.database.tables import Chat, Project
from jobs.maintenance import Retention
from jobs.repository.jobs import set_waiting
from jobs.service import chats
from jobs.service.chats import NewChat
from jobs.state import Event
from tests.api.conftest import ADMIN_KEY, Api, problem_of, serving, small
from tests.api.openai.conftest import client_of
from tests.api.openai.scripted_runner import PROMPT_TOKENS, ScriptedRunner, prompt_of
from tests.api.openai.test_methods import DOCUMENT
from tests.jobs.pool import hold, start_on
from tests.workers.deployment import RedisServer, wait_for

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
ASKED: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "one two"}]}


@dataclass
class Served:
    """An API whose model `base` is served, by a runner that plays in a running attempt of `job_id`."""

    api: Api
    runner: ScriptedRunner
    job_id: str

    def row(self, chat_id: str) -> Any:
        """The row of a chat, once it has ended."""
        query = sa.select(Chat.__table__).where(Chat.id == chat_id, Chat.state != "running")

        def look() -> Any:
            with self.api.database.reading() as connection:
                return connection.execute(query).first()

        return wait_for("the end of the chat", look)

    def ended_rows(self, state: str) -> list[Any]:
        """Rows of chats in a state."""
        with self.api.database.reading() as connection:
            return list(connection.execute(sa.select(Chat.__table__).where(Chat.state == state)))


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


def test_an_answer_as_a_whole(chatter: openai.OpenAI, served: Served) -> None:
    answer = ask(
        chatter, "one two", n=2, max_tokens=7, logit_bias={"5": -1}, seed=3, stop="x", temperature=0.5, top_p=1
    )
    assert answer.object == "chat.completion"
    assert answer.model == "base"
    assert [choice.message.content for choice in answer.choices] == ["one two", "one two"]
    assert [(choice.index, choice.finish_reason) for choice in answer.choices] == [(0, "stop"), (1, "stop")]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 4, 7)
    sent = dict(served.runner.asked[-1].request)
    assert sent.pop("messages") == [{"role": "user", "content": "one two"}]
    same = {
        "n": 2,
        "max_new_tokens": 7,
        "logit_bias": {"5": -1},
        "seed": 3,
        "stop": "x",
        "temperature": 0.5,
        "top_p": 1,
    }
    assert sent == same
    row = served.row(answer.id)
    assert (row.state, row.finish_reason, row.prompt_tokens, row.completion_tokens) == ("succeeded", "stop", 3, 4)
    assert (row.model, row.endpoint, row.job_id, row.stored) == ("base", "/v1/chat/completions", served.job_id, None)
    assert row.first_token_ms is not None
    assert row.finished_at >= row.created_at


def test_a_stream(chatter: openai.OpenAI) -> None:
    chunks = list(ask(chatter, "one two", stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "one two"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, None, "stop"]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * 4
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == PROMPT_TOKENS + 2
    with chatter.chat.completions.stream(**ASKED) as stream:
        assert stream.get_final_completion().choices[0].message.content == "one two"


def test_the_lines_of_a_stream(served: Served) -> None:
    answer = served.api.client.post("/v1/chat/completions", json={**ASKED, "stream": True})
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert all(event.startswith("data: {") for event in events[:-2])
    assert events[-2:] == ["data: [DONE]", ""]
    assert "usage" not in answer.text


def test_logprobs(chatter: openai.OpenAI) -> None:
    answer = ask(chatter, "one two", logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert [(each.token, each.logprob) for each in content] == [("one", -0.5), (" two", -0.5)]
    assert [other.token for other in content[0].top_logprobs] == ["one0", "one1"]
    streamed = list(ask(chatter, "one two", logprobs=True, stream=True))
    assert [chunk.choices[0].logprobs.content[0].token for chunk in streamed[1:3]] == ["one", " two"]


def test_text_completions(chatter: openai.OpenAI, served: Served) -> None:
    answer = chatter.completions.create(model="base", prompt=["a b", "c"], n=2, logprobs=1)
    assert answer.object == "text_completion"
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "a b"), (1, "a b"), (2, "c"), (3, "c")]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset) == (["a", " b"], [0, 1])
    assert logprobs.top_logprobs == [{"a0": -2.0}, {" b0": -2.0}]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2 * PROMPT_TOKENS, 6)
    assert served.row(answer.id).endpoint == "/v1/completions"
    assert served.runner.asked[-1].request["max_new_tokens"] == 16


def test_a_stream_of_text(served: Served) -> None:
    with client_of(served.api, strict=False) as client:  # the client's type has no null as finish_reason
        chunks = list(client.completions.create(model="base", prompt="a b", stream=True, logprobs=0))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "a b"
    assert [chunk.choices[0].logprobs.text_offset for chunk in chunks[:2] if chunk.choices[0].logprobs] == [[0], [1]]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "stop"]


def test_messages_with_parts_and_fields_of_earlier_answers(chatter: openai.OpenAI, served: Served) -> None:
    first = ask(chatter, "one").choices[0].message
    chatter.chat.completions.create(
        model="base",
        messages=[
            {"role": "developer", "content": "be short"},
            {"role": "user", "content": "one"},
            first,
            {"role": "user", "content": [{"type": "text", "text": "two "}, {"type": "text", "text": "three"}]},
        ],
        tools=[],
        parallel_tool_calls=True,
        modalities=["text"],
        response_format={"type": "text"},
        user="u",
        service_tier="auto",
    )
    assert served.runner.asked[-1].request["messages"] == [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two three"},
    ]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": []}, "messages"),
        ({"n": 129}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"model": "nobody"}, "model"),
        ({"model": "not a name"}, "model"),
        ({"extra_body": {"baichuan": {"adapter": "nobody"}}}, "baichuan.adapter"),
        ({"extra_body": {"baichuan": {"wait_seconds": 601}}}, "baichuan.wait_seconds"),
        ({"extra_body": {"guided_json": {}}}, "guided_json"),
        ({"messages": [{"role": "user", "content": "invalid"}], "max_completion_tokens": 9}, "max_completion_tokens"),
    ],
)
def test_what_is_not_supported_is_a_400_that_names_the_parameter(
    served: Served, changes: dict[str, Any], param: str
) -> None:
    with client_of(served.api, strict=False) as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{**ASKED, **changes})
    assert caught.value.param == param


def test_half_of_a_character_is_refused(served: Served) -> None:
    body = '{"model": "base", "messages": [{"role": "user", "content": "\\ud800"}]}'
    answer = served.api.client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert problem_of(answer, 400, "invalid_request")["error"]["param"] == "messages"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["x"] * 65, "n": 2}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
    ],
)
def test_unsupported_parameters_of_text_completions(served: Served, changes: dict[str, Any], param: str) -> None:
    with client_of(served.api, strict=False) as client, pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "base", "prompt": "x", **changes})
    assert caught.value.param == param


def test_a_client_that_disconnects_frees_its_place(chatter: openai.OpenAI, served: Served) -> None:
    stream = ask(chatter, "forever", stream=True)
    chunks = [next(stream) for _ in range(5)]
    stream.close()
    wait_for("the abort", lambda: chunks[0].id in served.runner.aborted)
    assert served.row(chunks[0].id).state == "cancelled"
    with pytest.raises(openai.APITimeoutError):
        ask(chatter.with_options(timeout=0.5), "forever")
    last = served.runner.asked[-1].id
    wait_for("the abort of a request without a stream", lambda: last in served.runner.aborted)
    assert served.row(last).state == "cancelled"


@pytest.mark.parametrize(("prompt", "message"), [("die", "the runner was killed"), ("gap", "replies were lost")])
def test_a_death_becomes_an_error_event(chatter: openai.OpenAI, served: Served, prompt: str, message: str) -> None:
    stream = ask(chatter, prompt, stream=True)
    first = next(stream)
    with pytest.raises(openai.APIError, match=message) as caught:
        list(stream)
    assert caught.value.code == "not_ready"
    row = served.row(first.id)
    assert (row.state, row.error["code"]) == ("failed", "not_ready")
    answer = served.api.client.post(
        "/v1/chat/completions", json={**ASKED, "messages": [{"role": "user", "content": prompt}], "stream": True}
    )
    assert "\n\nevent: error\ndata: " in answer.text
    assert "[DONE]" not in answer.text
    with pytest.raises(openai.InternalServerError, match=message):
        ask(chatter, prompt)


@pytest.mark.slow
def test_a_silent_stream_has_comments_and_ends(served: Served) -> None:
    # The attempt runs on in SQL, so the stream is given up only after the longest silence that is allowed.
    asked = {**ASKED, "messages": [{"role": "user", "content": "silent"}], "stream": True}
    with served.api.client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        lines = list(answer.iter_lines())
    assert lines.count(": still here") >= 3
    assert "silent for 15 s" in lines[-2]


def test_full_runners_and_projects_answer_429(served: Served) -> None:
    def post(text: str) -> httpx.Response:
        body = {"model": "base", "messages": [{"role": "user", "content": text}]}
        return served.api.client.post("/v1/chat/completions", json=body)

    busy = post("busy")
    assert "32 chats already" in problem_of(busy, 429, "too_many_requests")["detail"]
    assert busy.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(busy.headers["Retry-After"]) <= 120
    with client_of(served.api, strict=False) as client:
        streams = [ask(client, "forever", stream=True) for _ in range(4)]
        full = post("one")
        assert "4 open chats" in problem_of(full, 429, "too_many_requests")["detail"]
        for stream in streams:
            stream.close()
    wait_for("room", lambda: post("one").status_code == 200)


def test_a_cold_model_says_what_happens(served: Served) -> None:
    asked = {**ASKED, "model": "cold", "baichuan": {"wait_seconds": 0.5}}
    cold = served.api.client.post("/v1/chat/completions", json=asked)
    body = problem_of(cold, 503, "not_ready")
    assert 1 <= int(cold.headers["Retry-After"]) <= 120
    (job, _) = served.api.client.get("/v1/jobs?kind=serve").json()["data"]
    assert f"'cold' waits for a worker: job {job['id']}" in body["detail"]
    assert served.api.client.post("/v1/chat/completions", json=asked).status_code == 503
    assert len(served.api.client.get("/v1/jobs?kind=serve").json()["data"]) == 2
    with served.api.database.writing() as connection:
        set_waiting(connection, {job["id"]: {"cause": "device_memory", "message": "needs 1 device with 9 GiB"}})
    full = served.api.client.post("/v1/chat/completions", json=asked)
    assert "needs 1 device with 9 GiB" in problem_of(full, 429, "too_many_requests")["detail"]
    assert 1 <= int(full.headers["Retry-After"]) <= 120


def serve_jobs(served: Served) -> set[str]:
    """Ids of all jobs that serve a model."""
    return {job["id"] for job in served.api.client.get("/v1/jobs?kind=serve&limit=100").json()["data"]}


@pytest.mark.parametrize(("code", "status"), [("checkpoint", 400), ("internal_error", 500)])
def test_a_model_that_cannot_be_loaded(served: Served, code: str, status: int) -> None:
    name = f"broken-{status}"
    served.api.register_model(name)
    before = serve_jobs(served)
    with ThreadPoolExecutor(1) as pool:
        asked = {**ASKED, "model": name, "baichuan": {"wait_seconds": 60}}
        cold = pool.submit(served.api.client.post, "/v1/chat/completions", json=asked)
        job_id = wait_for("the job", lambda: serve_jobs(served) - before).pop()
        with served.api.database.writing() as connection:
            attempt_id = start_on(connection, job_id, "wrk-1", served.api.settings)
            error = {"code": code, "message": "the file is cut off"}
            hold(connection, attempt_id, "wrk-1", served.api.settings).end(Event.FAIL, error)
        answer = cold.result()
    assert answer.status_code == status
    assert "the file is cut off" in answer.json()["detail"]
    assert answer.json()["error"]["param"] == ("model" if status == 400 else None)


def test_a_leaving_attempt_is_not_the_end(served: Served) -> None:
    asked = {
        "model": "base",
        "messages": [{"role": "user", "content": "leaving"}],
        "baichuan": {"wait_seconds": 0.5},
    }
    answer = served.api.client.post("/v1/chat/completions", json=asked)
    assert "about to end" in problem_of(answer, 503, "not_ready")["detail"]


def test_stored_chats(chatter: openai.OpenAI, served: Served) -> None:
    kept = ask(chatter, "keep this", store=True, metadata={"topic": "a"})
    streamed = next(iter([chunk.id for chunk in ask(chatter, "and this", store=True, stream=True)]))
    served.row(kept.id)
    served.row(streamed)
    found: Any = chatter.chat.completions.retrieve(kept.id)
    assert (found.choices[0].message.content, found.metadata) == ("keep this", {"topic": "a"})
    assert [each.id for each in chatter.chat.completions.list(limit=1)] == [kept.id, streamed]
    assert [each.id for each in chatter.chat.completions.list(order="desc")] == [streamed, kept.id]
    changed: Any = chatter.chat.completions.update(kept.id, metadata={"topic": "b"})
    assert changed.metadata == {"topic": "b"}
    for chat_id in (kept.id, streamed):
        assert chatter.chat.completions.delete(chat_id).deleted
        with pytest.raises(openai.NotFoundError):
            chatter.chat.completions.retrieve(chat_id)
    assert served.row(kept.id).completion_tokens == 2


def test_the_documented_examples(served: Served, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    name, api = "baichuan2-7b-chat", served.api
    api.register_model(name)
    monkeypatch.setenv("BAICHUAN_API_KEY", ADMIN_KEY)
    attempt = api.start(api.submit(kind="serve", model=name)["id"])
    text = DOCUMENT.read_text(encoding="utf-8").replace("http://127.0.0.1:8000", api.url)
    beginning, _, rest = text.partition("## Fine-tune")
    blocks = [*PYTHON.findall(beginning), *PYTHON.findall(rest.partition("## Chat")[2].partition("\n## ")[0])]
    packages = {"langchain_openai", "llama_index"}
    names: dict[str, Any] = {}
    with ScriptedRunner(redis_server.url, attempt).running() as runner:
        for block in blocks:
            needed = [package for package in packages if package in block]
            if all(importlib.util.find_spec(package) for package in needed):
                exec(block, names)  # noqa: S102 - the document is ours
    names["client"].close()
    assert [prompt_of(ask.request) for ask in runner.asked[:2]] == ["你好", "Name three rivers."]
    assert names["text"].choices[0].text.startswith("登鹳雀楼")


def test_chats_count_as_use_of_the_key(served: Served) -> None:
    def tokens() -> int:
        return sum(day["tokens"] for day in served.api.client.get("/v1/usage").json()["data"])

    before = tokens()
    with client_of(served.api, strict=False) as client:
        served.row(ask(client, "one two").id)
    assert tokens() == before + PROMPT_TOKENS + 2


def test_chats_that_an_api_process_left_behind_fail(served: Served) -> None:
    with served.api.database.writing() as connection:
        new = NewChat("chatcmpl-left", "p", "k", "", "base", "/v1/chat/completions", served.job_id, "att-x")
        project = connection.execute(sa.select(Project.id)).scalars().first()
        chats.begin(connection, [replace(new, project_id=str(project))])
        assert chats.fail_left_behind(connection) == 0
        connection.execute(sa.update(Chat).where(Chat.id == new.id).values(expires_at=1))
    Retention(served.api.database, served.api.settings).expire()
    row = served.row(new.id)
    assert (row.state, row.error["code"]) == ("failed", "api_lost")
    with served.api.database.writing() as connection:
        connection.execute(sa.update(Chat).where(Chat.id == new.id).values(created_at=1))
    Retention(served.api.database, served.api.settings).expire()
    with served.api.database.reading() as connection:
        assert connection.execute(sa.select(Chat.id).where(Chat.id == new.id)).first() is None
