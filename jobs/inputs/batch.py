"""Checks a batch file: requests in the format of OpenAI's batch API, one per line.

Workers read the same lines with `baichuan_core.generation.request_file`; a test compares which lines both accept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.inputs.lines import InputError, read_lines
from jobs.inputs.parameters import ENDPOINTS, LENGTH_LIMIT_PARAMETERS, LONE_SURROGATE, find_problem, has_lone_surrogate

# OpenAI's limits: https://developers.openai.com/api/docs/guides/batch
MAX_REQUESTS = 50_000
MAX_BYTES = 200 * 2**20

LINE_KEYS = ("custom_id", "method", "url", "body")
MAX_ID_CHARACTERS = 512
IGNORED_PARAMETERS = ("user", "metadata", "store")  # accepted, but have no effect on the answer
# Unsupported parameters are accepted with these values, which have no effect.
NEUTRAL_VALUES: Mapping[str, Any] = {"stream": False, "logprobs": False, "echo": False, "best_of": 1}
SUPPORTED_PARAMETERS = (
    *("model", *LENGTH_LIMIT_PARAMETERS, "temperature", "top_p", "top_k", "seed", "n", "stop"),
    *("presence_penalty", "frequency_penalty", "logit_bias"),
)


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
    _check_body(body, ENDPOINTS[url])
    return custom_id, url, body["model"]


def _check_body(body: Mapping[str, Any], source: str) -> None:
    for name in ("model", source):
        if body.get(name) is None:
            raise _make_input_error(f"body.{name}", "is missing; add it")
    for name, value in body.items():
        if value is None or name in IGNORED_PARAMETERS or (name in NEUTRAL_VALUES and value == NEUTRAL_VALUES[name]):
            continue
        if name not in (*SUPPORTED_PARAMETERS, source):
            allowed = f" except {NEUTRAL_VALUES[name]!r}" if name in NEUTRAL_VALUES else ""
            raise _make_input_error(f"body.{name}", f"is not supported{allowed}; remove it")
        if fault := find_problem(name, value):
            raise _make_input_error(f"body.{name}", fault)
    limits = [name for name in LENGTH_LIMIT_PARAMETERS if body.get(name) is not None]
    if len(limits) > 1:
        raise _make_input_error(f"body.{limits[1]}", f"cannot be combined with {limits[0]}; keep one of them")


def _make_input_error(param: str, message: str) -> InputError:
    return InputError(f"{param} {message}", param=param)
