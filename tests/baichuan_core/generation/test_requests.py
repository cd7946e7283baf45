"""Prompt files and what is wrong with them."""

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


def test_a_line_may_have_settings_of_its_own(tmp_path: Path) -> None:
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
        ("", "hold no request"),
        ('{"prompt": "a"}\n{"prompt"', "line 2 of the prompts is not JSON"),
        ('{"prompt": "a"}\n\n[]', "line 3 of the prompts is not an object"),
        ('{"prompt": 3}', "line 1 .* write it as a string"),
        ("[" * 100_000, "line 1 .* is not JSON"),
        (f'{{"prompt": {"1" * 5000}}}', "line 1 .* is not JSON"),
        ('{"messages": "a"}', "line 1 .* malformed 'messages'"),
        ('{"messages": [{"role": "user"}]}', "line 1 .* malformed 'messages'"),
        ('{"prompt": "a", "temperature": "hot"}', "line 1 .* temperature is 'hot'; write a number"),
        ('{"prompt": "a", "temperature": NaN}', "line 1 .* temperature is nan; it must be at least 0"),
        ('{"prompt": "a", "top_p": 2}', "line 1 .* top_p is 2; it must be at most 1"),
        ('{"prompt": "a", "max_new_tokens": 1.5}', "line 1 .* max_new_tokens is 1.5; write a whole number"),
        ('{"prompt": "a", "seed": true}', "line 1 .* seed is True; write a whole number"),
        ('{"prompt": "a", "stop": 3}', "line 1 .* 'stop' that is no list"),
        ('{"prompt": "a", "stop": [3]}', "line 1 .* stop holds what is no text"),
        ('{"prompt": "a", "stop": [""]}', "line 1 .* stop holds an empty text"),
        ('{"prompt": "a", "stop": "\\ud800"}', "line 1 .* stop holds half of a surrogate pair"),
        ('{"prompt": "a", "id": "\\ud800"}', "line 1 .* id holds half of a surrogate pair"),
        (f'{{"prompt": "a", "top_k": {10**30}}}', "line 1 .* it must be at most 2147483647"),
        (f'{{"prompt": "a", "temperature": {10**400}}}', "line 1 .* it must be at most 100"),
        ('{"text": "a"}', "line 1 .* either 'prompt' or 'messages'"),
        ('{"prompt": "a", "messages": []}', "line 1 .* either 'prompt' or 'messages'"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_requests(write(tmp_path, text))


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
