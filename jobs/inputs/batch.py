"""Checks a batch file: requests in the format of OpenAI's batch API, one per line.

A line is accepted if the API's route accepts its body, except for the parameters that docs/openai.md names; a test
compares both. Workers read the same lines with `normalize_batch_line` and `baichuan_core.generation.request_file`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.inputs.lines import InputError, read_lines
from jobs.inputs.messages import normalize_messages
from jobs.inputs.parameters import (
    CHECKS_BY_PARAMETER,
    ENDPOINTS,
    LONE_SURROGATE,
    Check,
    has_lone_surrogate,
    make_neutral_check,
)

# OpenAI's limits: https://developers.openai.com/api/docs/guides/batch
MAX_REQUESTS = 50_000
MAX_BYTES = 200 * 2**20

LINE_KEYS = ("custom_id", "method", "url", "body")
MAX_ID_CHARACTERS = 512
LENGTH_LIMITS = ("max_tokens", "max_completion_tokens")
SUPPORTED_PARAMETERS = (
    *("model", "max_tokens", "temperature", "top_p", "top_k", "seed", "n", "stop"),
    *("presence_penalty", "frequency_penalty", "logit_bias"),
)
PARAMETERS_BY_ENDPOINT: Mapping[str, tuple[str, ...]] = {
    "/v1/chat/completions": (*SUPPORTED_PARAMETERS, "messages", "max_completion_tokens"),
    "/v1/completions": (*SUPPORTED_PARAMETERS, "prompt"),
}


def _make_checks(*names: str, **others: Check) -> dict[str, Check]:
    streams = {"stream": make_neutral_check(False), "stream_options": make_neutral_check()}
    return {**{name: CHECKS_BY_PARAMETER[name] for name in names}, **streams, **others}


# Parameters that have no effect in a batch; some are accepted only with the values that have none in a chat either.
INEFFECTIVE_BY_ENDPOINT: Mapping[str, Mapping[str, Check]] = {
    "/v1/chat/completions": _make_checks(
        *("user", "store", "metadata", "prompt_cache_key", "safety_identifier", "parallel_tool_calls", "service_tier"),
        *("response_format", "modalities", "tools", "tool_choice", "functions", "function_call", "reasoning_effort"),
        *("verbosity", "audio", "moderation", "prediction", "prompt_cache_options", "prompt_cache_retention"),
        "web_search_options",
        logprobs=make_neutral_check(False),
        top_logprobs=make_neutral_check(),
    ),
    "/v1/completions": _make_checks("user", "best_of", "echo", "suffix", logprobs=make_neutral_check()),
}


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """The endpoint and model that all requests of a batch file share, and the number of requests."""

    endpoint: str
    model: str
    requests: int


def check_batch(path: Path) -> BatchSummary:
    """Check every line of a batch file.

    Raises:
        InputError: The file is too large or empty, or a line is not a valid request; the message names
            the parameter at fault.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"the file is larger than {MAX_BYTES} bytes; split it")
    known: dict[str, int] = {}
    first: tuple[str, str] | None = None
    for line, item in read_lines(path):
        try:
            custom_id, endpoint, model = _check_line(item)
            if custom_id in known:
                raise _make_input_error(
                    "custom_id", f"is {custom_id!r}, which line {known[custom_id]} already uses; use another"
                )
            if first is not None and endpoint != first[0]:
                raise _make_input_error(
                    "url", f"is {endpoint}, but the first request has {first[0]}; use one file per endpoint"
                )
            if first is not None and model != first[1]:
                raise _make_input_error(
                    "body.model", f"is {model!r}, but the first request has {first[1]!r}; use one file per model"
                )
        except InputError as error:
            raise InputError(error.message, line=line, param=error.param) from None
        known[custom_id] = line
        first = first or (endpoint, model)
        if len(known) > MAX_REQUESTS:
            raise InputError(f"the file has more than {MAX_REQUESTS} requests; split it", line=line)
    if first is None:
        raise InputError("the file contains no requests; write one JSON object per line")
    return BatchSummary(*first, len(known))


def _check_line(item: Any) -> tuple[str, str, str]:
    """Return the custom_id, endpoint and model of a line."""
    if not isinstance(item, dict):
        raise InputError("is not an object; write one with custom_id, method, url and body")
    for key in item:
        if key not in LINE_KEYS:
            raise _make_input_error(key, f"is not a known key; a line may contain {', '.join(LINE_KEYS)}")
    custom_id, url, body = item.get("custom_id"), item.get("url"), item.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID_CHARACTERS:
        raise _make_input_error("custom_id", f"must be a string of 1 to {MAX_ID_CHARACTERS} characters")
    if has_lone_surrogate(custom_id):
        raise _make_input_error("custom_id", f"contains {LONE_SURROGATE}; write the whole character")
    if item.get("method") != "POST":
        raise _make_input_error("method", "must be POST")
    if not isinstance(url, str) or url not in ENDPOINTS:
        raise _make_input_error("url", f"must be {' or '.join(ENDPOINTS)}")
    if not isinstance(body, dict):
        raise _make_input_error("body", f"must be an object with the parameters of {url}")
    _check_body(_normalize_source(body, url), url)
    return custom_id, url, body["model"]


def normalize_batch_line(item: Any) -> Any:
    """Return a line in the format that the engine reads: without parameters that have no effect, messages as text."""
    url, body = (item.get("url"), item.get("body")) if isinstance(item, dict) else (None, None)
    if not isinstance(url, str) or url not in ENDPOINTS or not isinstance(body, dict):
        return item
    checks, given = INEFFECTIVE_BY_ENDPOINT[url], _normalize_source(body, url)
    kept = {name: value for name, value in given.items() if value is not None}
    return {**item, "body": {name: value for name, value in kept.items() if name not in checks or checks[name](value)}}


def _normalize_source(body: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Return a body whose messages, or whose only prompt, are strings."""
    source, given = ENDPOINTS[url], dict(body)
    value = given.get(source)
    if source == "messages" and value is not None:
        given[source] = normalize_messages(value)
    elif isinstance(value, list) and len(value) == 1:
        given[source] = value[0]
    return given


def _check_body(body: Mapping[str, Any], url: str) -> None:
    supported, ineffective = PARAMETERS_BY_ENDPOINT[url], INEFFECTIVE_BY_ENDPOINT[url]
    for name in ("model", ENDPOINTS[url]):
        if body.get(name) is None:
            raise _make_input_error(f"body.{name}", "is missing; add it")
    for name, value in body.items():
        if name not in supported and name not in ineffective:
            raise _make_input_error(f"body.{name}", "is not supported in a batch; remove it")
        check = ineffective.get(name) or CHECKS_BY_PARAMETER[name]
        if name == "prompt" and isinstance(value, list):
            raise _make_input_error("body.prompt", "must be one string; write one line per prompt")
        if value is not None and (fault := check(value)):
            raise _make_input_error(f"body.{name}", fault)
    limits = [name for name in LENGTH_LIMITS if body.get(name) is not None]
    if len(limits) > 1:
        raise _make_input_error(f"body.{limits[1]}", f"cannot be combined with {limits[0]}; keep one of them")


def _make_input_error(param: str, message: str) -> InputError:
    return InputError(f"{param} {message}", param=param)
