"""Generation requests from a JSONL file, in our own format or that of OpenAI's batch API."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from baichuan_core.errors import DatasetError, PromptError
from baichuan_core.generation.requests import OPTION_NAMES, GenerationRequest
from baichuan_core.text_file import read_text_file

REQUEST_KEYS = ("prompt", "messages", "id", *OPTION_NAMES)
# OpenAI's names for the length limit; the second one replaced the first in the chat API.
KEY_ALIASES = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
BATCH_KEYS = {"custom_id", "method", "url", "body"}
PROMPT_KEYS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}
IGNORED_PARAMETERS = ("model", "user", "metadata", "store")  # parameters that do not affect the completion
# Parameters of OpenAI's APIs that have no effect with these values.
NEUTRAL_VALUES = {"stream": False, "echo": False, "best_of": 1}


def read_requests(path: Path | str) -> list[GenerationRequest]:
    """Read requests from a file with one JSON object per line.

    A line is `{"prompt": ...}` or `{"messages": [...]}`, optionally with `id` and the other fields of
    `GenerationRequest`; `max_tokens` is an alias for `max_new_tokens`. Lines in OpenAI's batch format are accepted too:
    `custom_id` is the id; `model` in the body is ignored, because a run has one model. In both formats,
    log-probabilities are requested with `"logprobs": 2`, or as in OpenAI's chat API with `"logprobs": true,
    "top_logprobs": 2`. Any other key raises an error unless its value has no effect (null, or for example
    `"stream": false`).

    Raises:
        DatasetError: The file is missing, not UTF-8 or empty, or a line is malformed; the message names the line.
    """
    path = Path(path)
    text = read_text_file(path)
    if text.lstrip().startswith("["):
        raise DatasetError(f"{path.name} is a JSON array; write one object per line instead")
    lines = [(line, content) for line, content in enumerate(text.split("\n"), start=1) if content.strip()]
    if not lines:
        raise DatasetError(f"{path.name} has no requests; add one JSON object per line")
    return [_parse_line(content, f"line {line} of {path.name}") for line, content in lines]


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One line of a batch file: its request, or the reason why it is invalid."""

    custom_id: str
    request: GenerationRequest | None
    error: str | None = None


def read_batch(path: Path | str, normalize: Callable[[Any], Any] = lambda item: item) -> list[BatchLine]:
    """Read a file in OpenAI's batch format. Unlike in `read_requests`, one malformed line does not invalidate the file.

    Args:
        path: The file.
        normalize: Converts the JSON value of a line before it is checked, for example to drop more parameters.

    Raises:
        DatasetError: The file is missing, not UTF-8 or empty, or a line has no `custom_id`.
    """
    path = Path(path)
    lines = [
        (line, content) for line, content in enumerate(read_text_file(path).split("\n"), start=1) if content.strip()
    ]
    if not lines:
        raise DatasetError(f"the batch {path.name} has no requests; add one JSON object per line")
    return [_read_batch_line(content, f"line {line} of the batch", normalize) for line, content in lines]


def _read_batch_line(content: str, place: str, normalize: Callable[[Any], Any]) -> BatchLine:
    try:
        custom_id = json.loads(content)["custom_id"]
    except (ValueError, RecursionError, KeyError, TypeError):
        custom_id = None
    if not isinstance(custom_id, str):
        raise DatasetError(f"{place} has no 'custom_id'; every line needs a 'custom_id' that is a string")
    try:
        return BatchLine(custom_id, _parse_line(content, place, normalize))
    except DatasetError as error:
        return BatchLine(custom_id, None, str(error))


def _parse_line(content: str, place: str, normalize: Callable[[Any], Any] = lambda item: item) -> GenerationRequest:
    try:
        item = normalize(json.loads(content))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{place} is not JSON: {error.msg}; write one JSON object per line") from error
    except (ValueError, RecursionError) as error:  # a number with too many digits, or brackets nested too deeply
        raise DatasetError(f"{place} is not JSON: {error}; write one JSON object per line") from error
    if not isinstance(item, dict):
        raise DatasetError(f'{place} is not an object; write {{"prompt": ...}} or {{"messages": [...]}}')
    is_batch_line = "body" in item or "custom_id" in item
    fields = _unpack_batch_line(item, place) if is_batch_line else item
    request = _make_request(_normalize_keys(fields, place), place)
    # A line of a batch is answered like a request to the API, which uses chats as a whole.
    return replace(request, keep_messages=True) if is_batch_line and request.messages is not None else request


def _unpack_batch_line(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the fields of a line in OpenAI's batch format, converted to those of our own format."""
    _reject_unknown_keys(item, BATCH_KEYS, place, hint="a batch line may contain custom_id, method, url and body")
    url, body = item.get("url"), item.get("body")
    if item.get("method", "POST") != "POST" or not isinstance(url, str) or url not in PROMPT_KEYS:
        raise DatasetError(
            f"{place} has method {item.get('method', 'POST')!r} and url {url!r};"
            f" use POST with {' or '.join(PROMPT_KEYS)}"
        )
    if not isinstance(body, dict):
        raise DatasetError(f"{place} has no 'body'; add an object with the parameters of {url}")
    if "id" in body:
        raise DatasetError(f"{place} has the unknown key 'id' in its body; use 'custom_id' instead")
    if body.get(PROMPT_KEYS[url]) is None:
        raise DatasetError(f"{place} has no {PROMPT_KEYS[url]!r} in its body; {url} requires it")
    return {key: value for key, value in body.items() if key not in IGNORED_PARAMETERS} | {"id": item.get("custom_id")}


def _normalize_keys(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Drop keys that have no effect, translate aliases and reject all unknown keys."""
    fields: dict[str, Any] = {}
    for key, value in item.items():
        if value is None or (key in NEUTRAL_VALUES and value == NEUTRAL_VALUES[key]):
            continue
        name = KEY_ALIASES.get(key, key)
        if name in fields:
            raise DatasetError(f"{place} sets {name!r} twice, once as {key!r}; keep only one of the two keys")
        fields[name] = value
    _translate_logprobs(fields, place)
    _reject_unknown_keys(
        fields, set(REQUEST_KEYS), place, hint=f"use one of {', '.join(REQUEST_KEYS)}, or set it for the whole run"
    )
    return fields


def _translate_logprobs(fields: dict[str, Any], place: str) -> None:
    """Replace OpenAI's pair of `logprobs` (true or false) and `top_logprobs` with the number of alternatives."""
    top = fields.pop("top_logprobs", None)
    wanted = fields.get("logprobs")
    if isinstance(wanted, bool):
        del fields["logprobs"]
        if wanted:
            fields["logprobs"] = top or 0
    if top is not None and wanted is not True:
        raise DatasetError(
            f"{place} has 'top_logprobs' without \"logprobs\": true; set \"logprobs\": true, or remove 'top_logprobs'"
        )


def _parse_logit_bias(bias: Any, place: str) -> dict[int, Any]:
    """Convert the keys of `logit_bias`, which are strings in JSON, to token ids."""
    if not isinstance(bias, dict):
        raise DatasetError(f"{place} has a 'logit_bias' that is not an object; write {{\"token id\": bias}}")
    try:
        biases = {int(token): value for token, value in bias.items()}
    except ValueError as error:
        raise DatasetError(f"{place} has a 'logit_bias' key that is not a token id ({error}); use integers") from error
    if len(biases) < len(bias):
        raise DatasetError(f"{place} has a 'logit_bias' that lists a token twice; keep only one entry")
    return biases


def _reject_unknown_keys(item: Mapping[str, Any], known: set[str], place: str, *, hint: str) -> None:
    for key in item:
        if key not in known:
            raise DatasetError(f"{place} has the unknown key {key!r}; {hint}")


def _make_request(item: Mapping[str, Any], place: str) -> GenerationRequest:
    prompt, request_id, stop = item.get("prompt"), item.get("id"), item.get("stop")
    if prompt is not None and not isinstance(prompt, str):
        raise DatasetError(f"{place} has a 'prompt' that is not a string; write it as a string")
    if "messages" in item:
        _check_messages(item["messages"], place)
    if stop is not None and not isinstance(stop, str | list):
        raise DatasetError(f"{place} has a 'stop' that is neither a string nor a list; write a list of strings")
    options: dict[str, Any] = {name: item.get(name) for name in OPTION_NAMES}
    if options["logit_bias"] is not None:
        options["logit_bias"] = _parse_logit_bias(options["logit_bias"], place)
    try:
        return GenerationRequest(
            prompt, item.get("messages"), None if request_id is None else str(request_id), **options, place=place
        )
    except PromptError as error:
        raise DatasetError(f"{place}: {error}") from error


def _check_messages(messages: Any, place: str) -> None:
    if not isinstance(messages, list):
        raise DatasetError(f"{place} has malformed 'messages'; write a list of messages with 'role' and 'content'")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise DatasetError(
                f"{place} has malformed 'messages'; message {number} needs 'role' and 'content' as strings"
            )
        unknown = {key: value for key, value in message.items() if value is not None}
        _reject_unknown_keys(
            unknown, {"role", "content"}, f"{place}, message {number}", hint="use 'role' and 'content'"
        )
