"""Answers of `client.chat.completions` and `client.completions`, from a scripted runner."""

import importlib.util
import json
import re
from typing import Any

import openai
import pytest

from tests.api.conftest import ADMIN_KEY, problem_of
from tests.api.openai.conftest import ASKED, Served, ask, client_of
from tests.api.openai.scripted_runner import PROMPT_TOKENS, ScriptedRunner, prompt_of
from tests.api.openai.test_methods import DOCUMENT
from tests.workers.deployment import RedisServer

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_a_complete_answer(chatter: openai.OpenAI, served: Served) -> None:
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
        "keep_messages": True,
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
        ({"logit_bias": {"5": 1, "05": 2}}, "logit_bias"),
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
def test_an_unsupported_parameter_is_a_400_that_names_it(served: Served, changes: dict[str, Any], param: str) -> None:
    with client_of(served.api, strict=False) as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{**ASKED, **changes})
    assert caught.value.param == param


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_refusal_names_the_parameter_that_the_client_sent(served: Served, name: str) -> None:
    with client_of(served.api, strict=False) as client, pytest.raises(openai.BadRequestError) as caught:
        ask(client, "invalid", **{name: 600})
    assert caught.value.param == name
    assert f"{name} 600 leaves no room" in caught.value.message
    assert "max_new_tokens" not in caught.value.message


@pytest.mark.parametrize(
    ("address", "parameters", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ("/v1/chat/completions", {**ASKED, "stop": "\ud800"}, "stop"),
        ("/v1/chat/completions", {**ASKED, "stop": ["a", "\udfff"]}, "stop"),
        ("/v1/completions", {"prompt": "\ud800"}, "prompt"),
        ("/v1/completions", {"prompt": ["a", "\ud800"]}, "prompt"),
        ("/v1/chat/completions", {**ASKED, "store": True, "metadata": {"a": "\ud800"}}, "metadata.a"),
    ],
)
def test_half_of_a_character_is_refused(served: Served, address: str, parameters: dict[str, Any], param: str) -> None:
    body = json.dumps({**parameters, "model": "base"})
    answer = served.api.client.post(address, content=body, headers={"Content-Type": "application/json"})
    assert problem_of(answer, 400, "invalid_request")["error"]["param"] == param


def test_a_token_that_is_biased_twice_is_refused(served: Served) -> None:
    body = json.dumps({**ASKED, "logit_bias": {"5": 1}}).replace('{"5": 1}', '{"5": 1, "5": 2}')
    answer = served.api.client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert problem_of(answer, 400, "invalid_request")["error"]["param"] == "logit_bias.5"


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


def test_the_documented_examples(served: Served, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    name, api = "baichuan2-7b-chat", served.api
    api.register_model(name)
    monkeypatch.setenv("BAICHUAN_API_KEY", ADMIN_KEY)
    attempt = api.start(api.submit(kind="serve", model=name)["id"])
    api.report(attempt, accepts_chats=True)
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
