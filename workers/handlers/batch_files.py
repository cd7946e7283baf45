"""The result files of an OpenAI batch: each request appears exactly once, in the output file or the error file."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from baichuan_core.generation import BatchLine, GenerationRequest
from jobs.identifiers import new_id
from jobs.results import GenerateResult
from jobs.specs import OpenAIBatch

OUTPUT_FILE = "batch_output.jsonl"
ERROR_FILE = "batch_errors.jsonl"
CHAT_ENDPOINT = "/v1/chat/completions"


class BatchRequests:
    """The requests of a batch that can be answered, and the reasons why others cannot.

    Attributes:
        requests: Requests to answer, in the order of the file.
        errors: Reasons why requests cannot be answered, by custom_id.
    """

    def __init__(self, lines: Sequence[BatchLine]) -> None:
        self._lines = [line for line in lines if line.request is not None]
        self.errors = {line.custom_id: line.error or "" for line in lines if line.request is None}

    @property
    def requests(self) -> list[GenerationRequest]:
        """The requests to answer, in the order of the file."""
        return [line.request for line in self._lines if line.request is not None]

    def reject(self, reasons: Mapping[int, str]) -> None:
        """Move the requests with these indices in `requests` to `errors`, with the reasons."""
        self.errors |= {self._lines[index].custom_id: reason for index, reason in reasons.items()}
        self._lines = [line for index, line in enumerate(self._lines) if index not in reasons]

    def get_custom_id(self, index: int) -> str:
        """Return the custom_id of the request with this index in `requests`."""
        return self._lines[index].custom_id


def write_batch_results(output: Path, batch: BatchRequests, form: OpenAIBatch, completions: Iterable[str]) -> None:
    """Write the output file and the error file into a folder, except a file that would be empty.

    Args:
        output: The folder.
        batch: The requests.
        form: The endpoint of the requests, and the model that they name.
        completions: Lines of `completions.jsonl`, in which all samples of a request are consecutive.
    """
    _write_lines(output / OUTPUT_FILE, _make_answers(batch, form, completions))
    _write_lines(output / ERROR_FILE, (_make_error(*each) for each in batch.errors.items()))


def make_unanswered_result(batch: BatchRequests) -> GenerateResult:
    """Return the result of a batch in which no request could be answered."""
    return GenerateResult(
        requests=0,
        completions=0,
        resumed=0,
        prompt_tokens=0,
        completion_tokens=0,
        generated_tokens=0,
        seconds=0.0,
        tokens_per_second=0.0,
        engine="none",
        engine_reason="no request could be answered",
        rejected=len(batch.errors),
    )


def _write_lines(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    first = next(iter(lines), None)
    if first is None:
        return
    with path.open("w", encoding="utf-8") as file:
        file.write(first)
        file.writelines(lines)


def _make_answers(batch: BatchRequests, form: OpenAIBatch, completions: Iterable[str]) -> Iterator[dict[str, Any]]:
    parsed = (json.loads(line) for line in completions)
    for index, samples in groupby(parsed, key=lambda line: line["index"]):
        body = _make_body(form, list(samples))
        yield _make_line(batch.get_custom_id(index), {"status_code": 200, "request_id": new_id("req"), "body": body})


def _make_body(form: OpenAIBatch, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a chat completion or a text completion in OpenAI's format."""
    is_chat = form.endpoint == CHAT_ENDPOINT
    prompt_tokens = samples[0]["prompt_tokens"]
    completion_tokens = sum(sample["completion_tokens"] for sample in samples)
    return {
        "id": new_id("chatcmpl" if is_chat else "cmpl"),
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": form.model,
        "choices": [_make_chat_choice(sample) if is_chat else _make_text_choice(sample) for sample in samples],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def _make_chat_choice(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "index": sample["sample"],
        "message": {"role": "assistant", "content": sample["completion"], "refusal": None},
        "logprobs": None,
        "finish_reason": sample["finish_reason"],
    }


def _make_text_choice(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "index": sample["sample"],
        "text": sample["completion"],
        "logprobs": None,
        "finish_reason": sample["finish_reason"],
    }


def _make_error(custom_id: str, message: str) -> dict[str, Any]:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_request"}
    return _make_line(custom_id, {"status_code": 400, "request_id": new_id("req"), "body": {"error": error}})


def _make_line(custom_id: str, response: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": new_id("batch_req"), "custom_id": custom_id, "response": response, "error": None}
