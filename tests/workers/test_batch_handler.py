"""The handler of batches: each request is in the output file or in the error file, exactly once."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from baichuan_core import Progress
from jobs.specs import StoredGenerateSpec
from workers.handlers import generate as handler
from workers.handlers.batch_files import ERROR_FILE, OUTPUT_FILE
from workers.handlers.contract import HandlerContext

FILE_ID = "file-" + "0" * 26


class WorkerLostError(Exception):
    """The attempt's worker is lost."""


def spec_of(endpoint: str, **fields: Any) -> StoredGenerateSpec:
    batch = {"endpoint": endpoint, "model": "team/tiny"}
    given = {"kind": "generate", "model": "tiny", "input_file": FILE_ID, "max_new_tokens": 3, "batch": batch, **fields}
    return StoredGenerateSpec.model_validate(given)


def context(
    tmp_path: Path, model: Path, bodies: list[dict[str, Any]], endpoint: str, name: str = "run", earlier: Any = ()
) -> HandlerContext:
    file = tmp_path / "batch.jsonl"
    items = [
        {"custom_id": f"request {number}", "method": "POST", "url": endpoint, "body": {"model": "tiny", **body}}
        for number, body in enumerate(bodies)
    ]
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    output, checkpoints = tmp_path / name / "output", tmp_path / name / "checkpoints"
    output.mkdir(parents=True)
    checkpoints.mkdir()
    return HandlerContext({"model": model}, {"input_file": file}, output, checkpoints, earlier, lambda _: None)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def chat(content: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


def test_a_chat_batch(tiny_checkpoint: Path, tmp_path: Path) -> None:
    endpoint = "/v1/chat/completions"
    there = context(tmp_path, tiny_checkpoint, [chat("一"), chat("two", n=2, max_tokens=2), chat("三")], endpoint)
    result = handler.run(spec_of(endpoint), there).result
    assert (result.requests, result.completions, result.rejected) == (3, 4, 0)
    assert [path.name for path in there.output.iterdir()] == [OUTPUT_FILE]
    assert list(there.checkpoints.iterdir()) == []
    lines = read(there.output / OUTPUT_FILE)
    assert [line["custom_id"] for line in lines] == ["request 0", "request 1", "request 2"]
    assert len({line["id"] for line in lines}) == 3
    for line in lines:
        assert (line["error"], line["response"]["status_code"]) == (None, 200)
        answer = ChatCompletion.model_validate(line["response"]["body"], strict=True)
        assert answer.model == "team/tiny"
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    two = ChatCompletion.model_validate(lines[1]["response"]["body"])
    assert [choice.index for choice in two.choices] == [0, 1]
    assert all(choice.finish_reason in ("stop", "length") for choice in two.choices)


def test_a_batch_of_text_completions(tiny_checkpoint: Path, tmp_path: Path) -> None:
    endpoint = "/v1/completions"
    there = context(tmp_path, tiny_checkpoint, [{"prompt": "hello"}], endpoint)
    handler.run(spec_of(endpoint), there)
    (line,) = read(there.output / OUTPUT_FILE)
    answer = Completion.model_validate(line["response"]["body"], strict=True)
    assert (answer.object, len(answer.choices)) == ("text_completion", 1)


def test_equal_requests_have_equal_results(tiny_checkpoint: Path, tmp_path: Path) -> None:
    endpoint, options = "/v1/chat/completions", {"temperature": 0, "max_tokens": 3}
    parts = [{"type": "text", "text": "he"}, {"type": "text", "text": "llo"}]
    neutral = {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "parallel_tool_calls": True}
    bodies: list[dict[str, Any]] = [
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "hello"}], **options},
        {"messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": parts}], **options, **neutral},
    ]
    there = context(tmp_path, tiny_checkpoint, bodies, endpoint)
    assert handler.run(spec_of(endpoint), there).result.rejected == 0
    first, second = (line["response"]["body"] for line in read(there.output / OUTPUT_FILE))
    assert (first["choices"], first["usage"]) == (second["choices"], second["usage"])


def test_a_list_of_one_prompt(tiny_checkpoint: Path, tmp_path: Path) -> None:
    endpoint = "/v1/completions"
    bodies: list[dict[str, Any]] = [{"prompt": prompt, "temperature": 0, "echo": False} for prompt in ("a", ["a"])]
    there = context(tmp_path, tiny_checkpoint, bodies, endpoint)
    assert handler.run(spec_of(endpoint), there).result.rejected == 0
    first, second = (line["response"]["body"]["choices"] for line in read(there.output / OUTPUT_FILE))
    assert first == second


def test_requests_that_cannot_be_answered_are_in_the_error_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    endpoint = "/v1/completions"
    bodies: list[dict[str, Any]] = [{"prompt": prompt} for prompt in ("a", "x" * 5000, "b", "c")]
    bodies[3]["tools"] = []
    there = context(tmp_path, tiny_checkpoint, bodies, endpoint)
    result = handler.run(spec_of(endpoint), there).result
    assert (result.requests, result.rejected) == (2, 2)
    assert [line["custom_id"] for line in read(there.output / OUTPUT_FILE)] == ["request 0", "request 2"]
    errors = {line["custom_id"]: line["response"] for line in read(there.output / ERROR_FILE)}
    assert errors.keys() == {"request 1", "request 3"}
    assert errors["request 1"]["status_code"] == 400
    assert "shorten the prompt" in errors["request 1"]["body"]["error"]["message"]
    assert "unknown key 'tools'" in errors["request 3"]["body"]["error"]["message"]


def test_a_batch_without_a_single_answer(tiny_checkpoint: Path, tmp_path: Path) -> None:
    endpoint = "/v1/completions"
    there = context(tmp_path, tiny_checkpoint, [{"prompt": "x" * 5000}], endpoint)
    result = handler.run(spec_of(endpoint), there).result
    assert (result.requests, result.rejected, result.engine) == (0, 1, "none")
    assert [path.name for path in there.output.iterdir()] == [ERROR_FILE]


def test_a_later_attempt_continues(tiny_checkpoint: Path, tmp_path: Path) -> None:
    endpoint = "/v1/completions"
    bodies = [{"prompt": "a"}, {"prompt": "x" * 5000}, {"prompt": "b"}, {"prompt": "c"}]
    first = context(tmp_path, tiny_checkpoint, bodies, endpoint, "first")

    def lose(progress: Progress) -> None:
        if progress.metrics.get("requests_done", 0) == 2:
            raise WorkerLostError

    lost = HandlerContext(first.models, first.files, first.output, first.checkpoints, [], lose)
    with pytest.raises(WorkerLostError):
        handler.run(spec_of(endpoint, batch_size=1), lost)
    assert list(first.output.iterdir()) == []
    second = context(tmp_path, tiny_checkpoint, bodies, endpoint, "second", [first.checkpoints])
    result = handler.run(spec_of(endpoint, batch_size=1), second).result
    assert (result.resumed, result.requests, result.rejected) == (2, 3, 1)
    both = read(second.output / OUTPUT_FILE) + read(second.output / ERROR_FILE)
    assert sorted(line["custom_id"] for line in both) == [f"request {number}" for number in range(4)]
