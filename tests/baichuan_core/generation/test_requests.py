"""Prompt files, and the errors in them."""

import json
from pathlib import Path
from typing import Any

import pytest

from baichuan_core import DatasetError, GenerationRequest, PromptError, read_requests


def write(directory: Path, text: str) -> Path:
    path = directory / "prompts.jsonl"
    path.write_text(text)
    return path


def test_prompts_and_chats_are_read_in_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '\ufeff{"prompt": "a", "id": 7}\n\n{"messages": [{"role": "user", "content": "b"}], "id": "x"}\n{"prompt": ""}',
    )
    assert read_requests(path) == [
        GenerationRequest(prompt="a", id="7"),
        GenerationRequest(messages=[{"role": "user", "content": "b"}], id="x"),
        GenerationRequest(prompt=""),
    ]


def test_a_line_may_have_its_own_settings(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"prompt": "a", "max_new_tokens": 5, "temperature": 0, "top_k": 3, "top_p": 0.5, "seed": 7,'
        ' "stop": ["x", "y"]}\n'
        '{"prompt": "a", "stop": "x", "top_k": null}',
    )
    settings: dict[str, Any] = {
        "max_new_tokens": 5,
        "temperature": 0,
        "top_k": 3,
        "top_p": 0.5,
        "seed": 7,
        "stop": ("x", "y"),
    }
    assert read_requests(path) == [
        GenerationRequest(prompt="a", **settings),
        GenerationRequest(prompt="a", stop=("x",)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "prompts.jsonl has no requests"),
        ('{"prompt": "a"}\n{"prompt"', "line 2 of prompts.jsonl is not JSON"),
        ('{"prompt": "a"}\n\n[]', "line 3 of prompts.jsonl is not an object"),
        ('[\n{"prompt": "a"}\n]', "prompts.jsonl is a JSON array; write one object per line"),
        ('{"prompt": 3}', "line 1 .* write it as a string"),
        ('{"a":' * 100_000, "line 1 .* is not JSON"),
        (f'{{"prompt": {"1" * 5000}}}', "line 1 .* is not JSON"),
        ('{"messages": "a"}', "line 1 .* malformed 'messages'"),
        (
            '{"prompt": "a"}\n{"custom_id": "a", "url": ["a"], "body": {}}',
            r"line 2 .* has method 'POST' and url \['a'\]; use POST",
        ),
        (
            '{"custom_id": "a", "url": {"a": 1}, "body": {}}',
            "line 1 .* has method 'POST' and url {'a': 1}; use POST",
        ),
        ('{"messages": [{"role": "user"}]}', "line 1 .* malformed 'messages'"),
        ('{"prompt": "a", "temperature": "hot"}', "line 1 .* temperature is 'hot'; it must be a number"),
        ('{"prompt": "a", "temperature": NaN}', "line 1 .* temperature is nan; it must be at least 0"),
        ('{"prompt": "a", "top_p": 2}', "line 1 .* top_p is 2; it must be at most 1"),
        ('{"prompt": "a", "max_new_tokens": 1.5}', "line 1 .* max_new_tokens is 1.5; it must be an integer"),
        ('{"prompt": "a", "seed": true}', "line 1 .* seed is True; it must be an integer"),
        ('{"prompt": "a", "stop": 3}', "line 1 .* 'stop' that is neither a string nor a list"),
        ('{"prompt": "a", "stop": [3]}', "line 1 .* stop contains a value that is not a string"),
        ('{"prompt": "a", "stop": [""]}', "line 1 .* stop contains an empty string"),
        ('{"prompt": "a", "stop": "\\ud800"}', "line 1 .* stop contains an unpaired surrogate"),
        ('{"prompt": "a", "id": "\\ud800"}', "line 1 .* id contains an unpaired surrogate"),
        (f'{{"prompt": "a", "top_k": {10**30}}}', "line 1 .* it must be at most 2147483647"),
        (f'{{"prompt": "a", "temperature": {10**400}}}', "line 1 .* it must be at most 100"),
        ('{"text": "a"}', "line 1 .* unknown key 'text'; use one of prompt, messages, id, max_new_tokens"),
        ('{"id": 1}', "line 1 .* either 'prompt' or 'messages'"),
        ('{"prompt": "a"}\n{"conversations": [], "prompt": "b"}', "line 2 .* unknown key 'conversations'"),
        ('{"prompt": "a", "stream": true}', "line 1 .* unknown key 'stream'"),
        ('{"prompt": "a", "num_beams": 4}', "line 1 .* unknown key 'num_beams'"),
        ('{"prompt": "a", "frequency_penalty": 2.5}', "line 1 .* frequency_penalty is 2.5; it must be at most 2"),
        ('{"prompt": "a", "presence_penalty": "1"}', "line 1 .* presence_penalty is '1'; it must be a number"),
        ('{"prompt": "a", "logit_bias": [1]}', "line 1 .* 'logit_bias' that is not an object"),
        ('{"prompt": "a", "logit_bias": {"x": 1}}', "line 1 .* 'logit_bias' key that is not a token id"),
        (
            '{"prompt": "a", "logit_bias": {"7": 101}}',
            "line 1 .* logit_bias of token 7 is 101; it must be a number from",
        ),
        ('{"prompt": "a", "logit_bias": {"7": true}}', "line 1 .* logit_bias of token 7 is True"),
        ('{"prompt": "a", "logit_bias": {"-7": 1}}', "line 1 .* logit_bias has the key -7"),
        ('{"prompt": "a", "logprobs": 21}', "line 1 .* logprobs is 21; it must be at most 20"),
        ('{"prompt": "a", "top_logprobs": 2}', "line 1 .* 'top_logprobs' without"),
        ('{"prompt": "a", "max_tokens": 1, "max_new_tokens": 2}', "line 1 .* keep only one of the two keys"),
        ('{"prompt": "a", "n": 0}', "line 1 .* n is 0; it must be at least 1"),
        ('{"prompt": "a", "n": 129}', "line 1 .* n is 129; it must be at most 128"),
        ('{"prompt": "a", "n": "2"}', "line 1 .* n is '2'; it must be an integer"),
        (
            '{"messages": [{"role": "user", "content": "a", "name": "Bo"}]}',
            "line 1 .*, message 1 has the unknown key 'name'",
        ),
        ('{"prompt": "a", "messages": []}', "line 1 .* either 'prompt' or 'messages'"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_requests(write(tmp_path, text))


def batch_line(body: dict[str, Any], **fields: Any) -> str:
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps({**line, **fields})


def test_length_and_number_of_answers_may_have_openai_names(tmp_path: Path) -> None:
    path = write(tmp_path, '{"prompt": "a", "max_tokens": 5, "n": 2, "stream": false, "logprobs": null}')
    assert read_requests(path) == [GenerationRequest(prompt="a", max_new_tokens=5, n=2)]


def test_lines_in_the_batch_format_of_openai_are_used(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "b"}]
    chat = batch_line({"model": "gpt-4o", "messages": messages, "max_completion_tokens": 7, "temperature": 0.5, "n": 3})
    text = batch_line({"model": "m", "prompt": "a", "max_tokens": 5}, custom_id="two", url="/v1/completions")
    assert read_requests(write(tmp_path, f"{chat}\n{text}")) == [
        GenerationRequest(
            messages=[{"role": "user", "content": "b"}],
            id="one",
            max_new_tokens=7,
            temperature=0.5,
            n=3,
            keep_messages=True,
        ),
        GenerationRequest(prompt="a", id="two", max_new_tokens=5),
    ]


def test_penalties_biases_and_probabilities_have_openai_names(tmp_path: Path) -> None:
    messages: list[Any] = [{"role": "user", "content": "b"}]
    penalties = {"presence_penalty": 1, "frequency_penalty": -0.5}
    asked = {"logit_bias": {"7": -100}, "logprobs": True, "top_logprobs": 2, "stop": "x"}
    lines = [
        batch_line({"messages": messages, **penalties, **asked}),
        '{"prompt": "a", "logprobs": true}',
        '{"prompt": "a", "logprobs": false}',
        '{"prompt": "a", "logprobs": 3}',
    ]
    assert read_requests(write(tmp_path, "\n".join(lines))) == [
        GenerationRequest(
            messages=messages,
            id="one",
            presence_penalty=1,
            frequency_penalty=-0.5,
            logit_bias={7: -100},
            logprobs=2,
            stop=["x"],
            keep_messages=True,
        ),
        GenerationRequest(prompt="a", logprobs=0),
        GenerationRequest(prompt="a"),
        GenerationRequest(prompt="a", logprobs=3),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            batch_line({"messages": []}, url="/v1/embeddings"),
            "line 1 .* has method 'POST' and url '/v1/embeddings'; use",
        ),
        (batch_line({"messages": []}, method="GET"), "line 1 .* has method 'GET'"),
        (batch_line({"messages": [], "tools": []}), "line 1 .* unknown key 'tools'"),
        (batch_line({"prompt": "a"}), "line 1 .* no 'messages' in its body"),
        (batch_line({"messages": [], "id": 3}), "line 1 .* use 'custom_id' instead"),
        (
            batch_line({"messages": []}, max_tokens=3),
            "line 1 .* unknown key 'max_tokens'; a batch line may contain custom_id",
        ),
        ('{"custom_id": "a", "url": "/v1/completions", "body": "x"}', "line 1 .* no 'body'"),
    ],
)
def test_malformed_batch_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_requests(write(tmp_path, line))


def test_unreadable_files_are_dataset_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        read_requests(tmp_path / "missing.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_requests(tmp_path / "latin.jsonl")


def test_a_request_is_a_prompt_or_a_chat() -> None:
    with pytest.raises(PromptError):
        GenerationRequest()
    with pytest.raises(PromptError):
        GenerationRequest(prompt="a", messages=[])
