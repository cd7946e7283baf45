"""Chats with real workers, through Redis only."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baichuan_core.generation import (
    Completion,
    GenerationOptions,
    GenerationRequest,
    TextDelta,
    TextGenerator,
    generate,
)
from jobs.chats.messages import ChatEnded, ChatRefused, ChatStarted, ChoiceEnded
from jobs.service.serving_attempts import find_serving_attempts
from tests.workers.chatting import Asker, asking, start_serving
from tests.workers.deployment import Deployment, RedisServer, deployment, wait_for
from tests.workers.test_control import runner_of

LONG: dict[str, Any] = {
    "prompt": "a queue",
    "max_new_tokens": 450,
    "temperature": 1.0,
    "seed": 1,
    "logit_bias": {"2": -100},  # no end token
}
QUESTION = [{"role": "user", "content": "你好"}]


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, tiny_checkpoint: Path
) -> Iterator[Deployment]:
    """A deployment with one worker, `w`."""
    home = tmp_path_factory.mktemp("serving")
    with deployment(home, redis_server, model_roots=str(tiny_checkpoint), backoff_seconds=0) as made:
        made.register("tiny", tiny_checkpoint)
        made.start_dispatcher()
        made.start_worker("w", slots="2")
        yield made


@pytest.fixture
def asker(service: Deployment) -> Iterator[Asker]:
    """An API process."""
    with asking(service) as made:
        yield made


@pytest.fixture
def served(service: Deployment) -> Iterator[tuple[str, str]]:
    """A serve job and its attempt, for one test."""
    job_id, attempt_id = start_serving(service, model="tiny", batch_size=4)
    yield job_id, attempt_id
    if not service.job(job_id).state.is_final:
        service.cancel(job_id)
        service.wait(job_id, "cancelled")


def find_open(service: Deployment, job_id: str) -> list[str]:
    """Return the attempts of a job at which an API process would ask."""
    with service.database.reading() as connection:
        key = str(service.job(job_id).requirement["model"])
        attempts = find_serving_attempts(connection, service.project_id, key)
    return [attempt.attempt_id for attempt in attempts if attempt.job_id == job_id]


@pytest.mark.slow
def test_answers_are_those_of_the_engine(
    service: Deployment, asker: Asker, served: tuple[str, str], tiny_checkpoint: Path
) -> None:
    job_id, attempt_id = served
    assert find_open(service, job_id) == [attempt_id]
    generator = TextGenerator(tiny_checkpoint)
    requests: list[dict[str, Any]] = [
        {"messages": QUESTION, "max_new_tokens": 12, "temperature": 0.7, "seed": 5, "n": 2, "logprobs": 2},
        *({"prompt": f"hello {number}", "max_new_tokens": 6, "seed": number} for number in range(6)),
    ]
    chats = [asker.ask(attempt_id, **request) for request in requests]
    for request, replies in zip(requests, asker.finish(*chats), strict=True):
        expected = list(generator.submit(GenerationRequest(**request)))
        completions = {one.sample: one for one in expected if isinstance(one, Completion)}
        assert isinstance(replies[0], ChatStarted)
        assert replies[0].prompt_tokens == completions[0].prompt_tokens
        ended = {reply.choice: reply for reply in replies if isinstance(reply, ChoiceEnded)}
        for sample, completion in completions.items():
            said = [delta for delta in asker.deltas(replies[0].id) if delta.choice == sample]
            assert "".join(delta.text for delta in said) == completion.text
            chances = [chance for delta in said for chance in delta.logprobs]
            assert len(chances) == len(completion.logprobs or ())
            assert all(len(chance.alternatives) == request["logprobs"] for chance in chances)
            assert ended[sample].finish_reason == completion.finish_reason
            assert ended[sample].completion_tokens == completion.completion_tokens
        assert isinstance(replies[-1], ChatEnded)
    assert any(isinstance(one, TextDelta) for one in expected)


@pytest.mark.parametrize(
    ("request_fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "long " * 5000}, "prompt"),
        ({"messages": []}, "messages"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens"),
        ({"prompt": "a", "logit_bias": {"99999999": 1}}, "logit_bias"),
    ],
)
def test_an_invalid_request_names_its_parameter(
    asker: Asker, invalid_at: str, request_fields: dict[str, Any], param: str
) -> None:
    refused = asker.last(asker.ask(invalid_at, **request_fields))
    assert isinstance(refused, ChatRefused)
    assert (refused.reason, refused.param) == ("invalid", param), refused


@pytest.fixture(scope="module")
def invalid_at(service: Deployment) -> Iterator[str]:
    """An attempt for requests that have no effect."""
    job_id, attempt_id = start_serving(service, model="tiny")
    yield attempt_id
    if not service.job(job_id).state.is_final:
        service.cancel(job_id)


def test_a_full_runner_is_busy_until_a_chat_is_aborted(asker: Asker, served: tuple[str, str]) -> None:
    _, attempt_id = served
    long = asker.ask(attempt_id, **LONG, n=8)
    asker.read_until(lambda: asker.deltas(long))
    refused = asker.last(asker.ask(attempt_id, prompt="a", max_new_tokens=2))
    assert (refused.reason, refused.number) == ("busy", 0)
    assert "the limit is 8; wait and try again, or ask for fewer completions" in refused.message
    asker.abort(attempt_id, long)
    assert isinstance(asker.last(asker.ask(attempt_id, prompt="a", max_new_tokens=2)), ChatEnded)
    assert not isinstance(asker.replies[long][-1], ChatEnded | ChatRefused)


def test_a_killed_runner_is_reported_and_replaced(service: Deployment, asker: Asker, served: tuple[str, str]) -> None:
    job_id, attempt_id = served
    long = asker.ask(attempt_id, **LONG, n=8)
    asker.read_until(lambda: asker.deltas(long))
    os.kill(runner_of(service, "w", job_id), signal.SIGKILL)
    assert asker.last(long).reason == "failed"
    assert asker.last(asker.ask(attempt_id, prompt="a")).reason == "leaving"
    wait_for("the next attempt", lambda: find_open(service, job_id) not in ([], [attempt_id]))
    (again,) = find_open(service, job_id)
    long = asker.ask(again, **LONG, n=8)
    asker.read_until(lambda: asker.deltas(long))
    service.cancel(job_id)
    assert asker.last(long).reason == "leaving"


def test_an_idle_job_succeeds_and_the_next_one_starts_warm(service: Deployment, asker: Asker) -> None:
    first, attempt_id = start_serving(service, model="tiny", idle_seconds=4)
    chat = asker.ask(attempt_id, messages=QUESTION, max_new_tokens=4)
    assert isinstance(asker.last(chat), ChatEnded)
    done = service.wait(first)
    assert done.result is not None
    assert (done.result["chats"], done.result["refused"], done.result["engine"]) == (1, 0, "transformers")
    assert done.result["completion_tokens"] == asker.replies[chat][-2].completion_tokens
    assert find_open(service, first) == []
    assert asker.last(asker.ask(attempt_id, prompt="a")).reason == "leaving"
    second = service.wait(service.submit(kind="serve", model="tiny", idle_seconds=0)).id
    batch = service.wait(service.submit(kind="generate", model="tiny", prompts=["a"], max_new_tokens=2)).id
    assert len({runner_of(service, "w", job_id) for job_id in (first, second, batch)}) == 1


def test_idle_jobs_make_room_for_a_job_that_waits(service: Deployment) -> None:
    serving = [start_serving(service, model="tiny", batch_size=4, idle_seconds=600)[0] for _ in range(2)]
    waiting = service.submit(kind="generate", model="tiny", prompts=["a"], max_new_tokens=2)
    service.wait(waiting)
    states = {job_id: service.job(job_id).state for job_id in serving}
    assert "succeeded" in states.values()
    for job_id, state in states.items():
        if not state.is_final:
            service.cancel(job_id)


@pytest.mark.slow
def test_a_generate_job_answers_chats_beside_its_prompts(
    service: Deployment, asker: Asker, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    prompts = [f"prompt {number}" for number in range(10)]
    job_id = service.submit(
        kind="generate", model="tiny", prompts=prompts, max_new_tokens=400, temperature=1.0, seed=3, batch_size=1
    )
    wait_for("the generate job to accept chats", lambda: find_open(service, job_id))
    attempt_id = service.attempts(job_id)[-1].id
    asked: dict[str, Any] = {"messages": QUESTION, "max_new_tokens": 9, "temperature": 0.0}
    chats = [asker.ask(attempt_id, **asked) for _ in range(2)]
    long = asker.ask(attempt_id, **LONG)
    *short, last = asker.finish(*chats, long)
    generator = TextGenerator(tiny_checkpoint)
    (expected,) = generator.complete([GenerationRequest(**asked)])
    for chat, replies in zip(chats, short, strict=True):
        assert "".join(delta.text for delta in asker.deltas(chat)) == expected.text
        assert isinstance(replies[-1], ChatEnded)
    assert isinstance(last[-1], ChatEnded)
    done = service.wait(job_id)
    assert done.result is not None
    assert done.result["completions"] == len(prompts)
    assert find_open(service, job_id) == []
    assert asker.last(asker.ask(attempt_id, prompt="a")).reason == "leaving"
    output = tmp_path / "expected.jsonl"
    options = GenerationOptions(max_new_tokens=400, temperature=1.0, seed=3)
    generate(tiny_checkpoint, [GenerationRequest(prompt=prompt) for prompt in prompts], output, options)
    assert service.read(service.artifacts(job_id)["completions.jsonl"]) == output.read_bytes()


def test_a_generate_job_that_fails_refuses_its_chats(service: Deployment, asker: Asker) -> None:
    job_id = service.submit(kind="generate", model="tiny", prompts=["a"] * 24, max_new_tokens=400, batch_size=1)
    wait_for("the generate job to accept chats", lambda: find_open(service, job_id))
    chat = asker.ask(service.attempts(job_id)[-1].id, **LONG, n=8)
    asker.read_until(lambda: asker.deltas(chat))
    service.cancel(job_id)
    assert asker.last(chat).reason == "leaving"
    service.wait(job_id, "cancelled")


@pytest.mark.alone  # another worker starts
def test_a_draining_worker_finishes_its_chats_and_takes_no_more(service: Deployment, asker: Asker) -> None:
    service.start_worker("d", labels="name=d", kinds="serve", drain_seconds="60")  # enough for the long chat
    job_id, attempt_id = start_serving(service, model="tiny", resources={"labels": {"name": "d"}})
    long = asker.ask(attempt_id, **LONG, n=8)
    asker.read_until(lambda: asker.deltas(long))
    service.running["d"].send_signal(signal.SIGTERM)

    def is_refused() -> bool:
        return isinstance(asker.last(asker.ask(attempt_id, prompt="a", max_new_tokens=1)), ChatRefused)

    wait_for("a refusal", is_refused)
    assert {
        reply.reason for replies in asker.replies.values() for reply in replies if isinstance(reply, ChatRefused)
    } == {"leaving"}
    assert isinstance(asker.last(long), ChatEnded)
    assert service.end("d") == 0
    assert service.wait(job_id, "queued").error is None
    service.cancel(job_id)
