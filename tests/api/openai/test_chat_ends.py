"""The end of chats: disconnects, crashes, limits, models that are not loaded; and the records of chats."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
import redis
import sqlalchemy as sa

from jobs.chats.messages import process_key
from jobs.database.tables import Chat, Project
from jobs.maintenance import RetentionPass
from jobs.repository.jobs import set_waiting_reasons
from jobs.scheduling import Explanation
from jobs.service import chats
from jobs.service.chats import NewChat
from jobs.state import Event
from tests.api.conftest import problem_of
from tests.api.openai.conftest import ASKED, Served, ask, client_of
from tests.api.openai.scripted_runner import PROMPT_TOKENS, THINK_SECONDS, ScriptedRunner
from tests.jobs.pool import hold, start_on
from tests.workers.deployment import RedisServer, wait_for


def test_a_client_that_disconnects_frees_its_slot(chatter: openai.OpenAI, served: Served) -> None:
    stream = ask(chatter, "forever", stream=True)
    chunks = [next(stream) for _ in range(5)]
    with redis.Redis.from_url(served.api.settings.effective_redis_url) as connection:
        assert connection.exists(process_key(served.runner.asked[-1].reply_to))
    stream.close()
    wait_for("the abort", lambda: chunks[0].id in served.runner.aborted)
    assert served.row(chunks[0].id).state == "cancelled"
    with pytest.raises(openai.APITimeoutError):
        ask(chatter.with_options(timeout=0.5), "forever")
    last = served.runner.asked[-1].id
    wait_for("the abort of a request without a stream", lambda: last in served.runner.aborted)
    assert served.row(last).state == "cancelled"


@pytest.mark.parametrize(("prompt", "message"), [("die", "the runner was killed"), ("gap", "replies were lost")])
def test_a_crash_becomes_an_error_event(chatter: openai.OpenAI, served: Served, prompt: str, message: str) -> None:
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


@pytest.mark.alone
def test_a_stream_survives_silence_while_its_runner_is_alive(served: Served) -> None:
    asked = {**ASKED, "messages": [{"role": "user", "content": "think"}], "stream": True}
    with served.api.client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        lines = list(answer.iter_lines())
    assert lines.count(": still here") >= THINK_SECONDS / 3
    assert '"content":"thought"' in "".join(lines)
    assert lines[-2] == "data: [DONE]"


@pytest.mark.alone
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


def test_a_chat_on_a_cold_model_reports_the_state_of_its_job(served: Served) -> None:
    asked = {**ASKED, "model": "cold", "baichuan": {"wait_seconds": 0.5}}
    cold = served.api.client.post("/v1/chat/completions", json=asked)
    body = problem_of(cold, 503, "not_ready")
    assert 1 <= int(cold.headers["Retry-After"]) <= 120
    (job, _) = served.api.client.get("/v1/jobs?kind=serve").json()["data"]
    assert f"'cold' is waiting for a worker to take job {job['id']}: " in body["detail"]
    assert served.api.client.post("/v1/chat/completions", json=asked).status_code == 503
    assert len(served.api.client.get("/v1/jobs?kind=serve").json()["data"]) == 2
    with served.api.database.writing() as connection:
        set_waiting_reasons(connection, {job["id"]: Explanation("device_memory", "needs 1 device with 9 GiB").to_row()})
    full = served.api.client.post("/v1/chat/completions", json=asked)
    assert "needs 1 device with 9 GiB" in problem_of(full, 429, "too_many_requests")["detail"]
    assert 1 <= int(full.headers["Retry-After"]) <= 120


def serve_jobs(served: Served) -> set[str]:
    """Ids of all jobs that serve a model."""
    return {job["id"] for job in served.api.client.get("/v1/jobs?kind=serve&limit=100").json()["data"]}


def test_a_generate_job_answers_if_it_has_room(served: Served, redis_server: RedisServer) -> None:
    api = served.api
    api.register_model("shared")
    job_id = api.submit(kind="generate", model="shared", prompts=["a"])["id"]
    attempt = api.start(job_id)
    api.report(attempt, accepts_chats=True)
    before = serve_jobs(served)

    def post(text: str) -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        body = {"model": "shared", "messages": messages, "baichuan": {"wait_seconds": 0.5}}
        return api.client.post("/v1/chat/completions", json=body)

    with ScriptedRunner(redis_server.url, attempt).running() as runner:
        answer = post("one two").json()
        assert answer["choices"][0]["message"]["content"] == "one two"
        assert served.row(answer["id"]).job_id == job_id
        assert serve_jobs(served) == before
        (job,) = {_serve_job_named_in(post(text)) for text in ("busy", "leaving", "busy")}
        assert serve_jobs(served) == before | {job}
        assert len(runner.asked) == 4  # each request asks it once
        api.report(attempt, accepts_chats=False)
        post("one two")
        assert len(runner.asked) == 4


def _serve_job_named_in(answer: httpx.Response) -> str:
    detail = str(problem_of(answer, 503, "not_ready")["detail"])
    return detail.partition("job ")[2].split(" ")[0].rstrip(":")


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


def test_a_stream_survives_an_attempt_that_stops_accepting_chats(served: Served) -> None:
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


def test_chats_count_as_use_of_the_key(served: Served) -> None:
    def tokens() -> int:
        return sum(day["tokens"] for day in served.api.client.get("/v1/usage").json()["data"])

    wait_for("the rows of other tests", lambda: not served.open_rows())
    before = tokens()
    with client_of(served.api, strict=False) as client:
        served.row(ask(client, "one two").id)
    assert tokens() == before + PROMPT_TOKENS + 2


def test_chats_that_an_api_process_left_behind_fail(served: Served) -> None:
    with served.api.database.writing() as connection:
        new = NewChat("chatcmpl-left", "p", "k", "", "base", "/v1/chat/completions", served.job_id, "att-x")
        project = connection.execute(sa.select(Project.id)).scalars().first()
        chats.begin(connection, [replace(new, project_id=str(project))])
        assert chats.fail_abandoned(connection) == 0
        connection.execute(sa.update(Chat).where(Chat.id == new.id).values(expires_at=1))
    RetentionPass(served.api.database, served.api.settings).expire()
    row = served.row(new.id)
    assert (row.state, row.error["code"]) == ("failed", "api_lost")
    with served.api.database.writing() as connection:
        connection.execute(sa.update(Chat).where(Chat.id == new.id).values(created_at=1))
    RetentionPass(served.api.database, served.api.settings).expire()
    with served.api.database.reading() as connection:
        assert connection.execute(sa.select(Chat.id).where(Chat.id == new.id)).first() is None
