"""Checks a file of prompts, the `input_file` of generate jobs: one JSON object per line.

Workers read the same lines with `baichuan_core.generation.request_file`; a test compares which lines both accept.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.inputs.lines import InputError, read_beginning, read_lines
from jobs.inputs.parameters import (
    ENDPOINTS,
    LENGTH_LIMIT_PARAMETERS,
    LONE_SURROGATE,
    Check,
    find_problem,
    has_lone_surrogate,
    make_integer_check,
    make_number_check,
)

PROMPT_FIELDS = ("prompt", "messages")
SHARED_PARAMETERS = ("prompt", "messages", "top_k", "n", "stop", "presence_penalty", "frequency_penalty", "logit_bias")
# Parameters for which our own jobs allow a wider range than OpenAI's API.
PROMPT_FILE_CHECKS: Mapping[str, Check] = {
    "temperature": make_number_check(0, 100),
    "top_p": make_number_check(0, 1),
    "seed": lambda value: None if type(value) is int else "must be an integer",
    "logprobs": make_integer_check(0, 20),
}
LINE_KEYS = ("prompt", "messages", "id", "max_new_tokens", "max_tokens", *SHARED_PARAMETERS[2:], *PROMPT_FILE_CHECKS)
BATCH_KEYS = ("custom_id", "method", "url", "body")
IGNORED_PARAMETERS = ("model", "user", "metadata", "store")  # have no effect in the body of a batch line
NEUTRAL_VALUES: Mapping[str, Any] = {"stream": False, "echo": False, "best_of": 1}  # have no effect with these values
EXAMPLE_HINT = 'write {"prompt": …} or {"messages": […]}'


def check_prompts(path: Path) -> None:
    """Check every line of a prompt file.

    Raises:
        InputError: The file is empty or an array, or a line is not a valid request; the message names the field at
            fault.
    """
    if read_beginning(path).startswith(b"["):
        raise InputError("the file is a JSON array; write one object per line instead")
    is_empty = True
    for line, item in read_lines(path):
        is_empty = False
        try:
            _check_line(item)
        except InputError as error:
            raise InputError(error.message, line=line, param=error.param) from None
    if is_empty:
        raise InputError("the file contains no prompts; write one JSON object per line")


def _check_line(item: Any) -> None:
    if not isinstance(item, dict):
        raise InputError(f"is not an object; {EXAMPLE_HINT}")
    fields = _unpack_batch_line(item) if "body" in item or "custom_id" in item else item
    given = {name: value for name, value in fields.items() if value is not None and not _is_neutral(name, value)}
    _normalize_logprobs(given)
    for name, value in given.items():
        if fault := _find_problem(name, value):
            raise _make_input_error(name, fault)
    _check_combinations(given)


def _unpack_batch_line(item: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the fields of a line in OpenAI's batch format to our own format."""
    for key in item:
        if key not in BATCH_KEYS:
            raise _make_input_error(key, f"is not a known key; a batch line may contain {', '.join(BATCH_KEYS)}")
    url, body = item.get("url"), item.get("body")
    if item.get("method", "POST") != "POST":
        raise _make_input_error("method", "must be POST")
    if not isinstance(url, str) or url not in ENDPOINTS:
        raise _make_input_error("url", f"must be {' or '.join(ENDPOINTS)}")
    if not isinstance(body, dict):
        raise _make_input_error("body", f"must be an object with the parameters of {url}")
    if "id" in body:
        raise _make_input_error("body.id", "is not supported; use custom_id to identify the request")
    if body.get(ENDPOINTS[url]) is None:
        raise _make_input_error(f"body.{ENDPOINTS[url]}", "is missing; add it")
    return {key: value for key, value in body.items() if key not in IGNORED_PARAMETERS} | {"id": item.get("custom_id")}


def _is_neutral(name: str, value: Any) -> bool:
    return name in NEUTRAL_VALUES and value == NEUTRAL_VALUES[name]


def _normalize_logprobs(given: dict[str, Any]) -> None:
    """Replace OpenAI's `logprobs` (true or false) and `top_logprobs` with the number of alternatives."""
    top, wanted = given.pop("top_logprobs", None), given.get("logprobs")
    if top is not None and wanted is not True:
        raise _make_input_error("top_logprobs", 'requires "logprobs": true; add it, or remove top_logprobs')
    if wanted is True:
        given["logprobs"] = top or 0
    elif wanted is False:
        del given["logprobs"]


def _find_problem(name: str, value: Any) -> str | None:
    if name == "id":
        return f"contains {LONE_SURROGATE}; write the whole character" if has_lone_surrogate(str(value)) else None
    if name in PROMPT_FILE_CHECKS:
        return PROMPT_FILE_CHECKS[name](value)
    if name in SHARED_PARAMETERS or name in LENGTH_LIMIT_PARAMETERS:
        return find_problem(name, value)
    return f"is not a known key; use one of {', '.join(LINE_KEYS)}, or set it for the whole job"


def _check_combinations(given: Mapping[str, Any]) -> None:
    sources = [name for name in PROMPT_FIELDS if name in given]
    if len(sources) != 1:
        found = "both prompt and messages" if sources else "neither prompt nor messages"
        raise InputError(f"has {found}; {EXAMPLE_HINT}")
    limits = [name for name in LENGTH_LIMIT_PARAMETERS if name in given]
    if len(limits) > 1:
        raise _make_input_error(limits[1], f"cannot be combined with {limits[0]}; keep one of them")


def _make_input_error(param: str, message: str) -> InputError:
    return InputError(f"{param} {message}", param=param)
