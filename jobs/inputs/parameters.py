"""Rules for OpenAI's completion parameters, shared by batch files and chats.

The engine checks them again with its own limits; these checks use the client's parameter names.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from jobs.specs.fields import Metadata

ENDPOINTS: Mapping[str, str] = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}
ROLES = ("system", "user", "assistant")
LENGTH_LIMIT_PARAMETERS = ("max_tokens", "max_completion_tokens", "max_new_tokens")
MAX_BIASED_TOKENS = 1024  # as in `baichuan_core.generation`; OpenAI's API accepts 300

LONE_SURROGATE = "an unpaired surrogate"
METADATA_ADAPTER: TypeAdapter[Metadata] = TypeAdapter(Metadata)

Check = Callable[[Any], str | None]


def has_lone_surrogate(text: str) -> bool:
    """Whether a string contains an unpaired surrogate, which JSON can encode but UTF-8 cannot."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def find_problem(name: str, value: Any) -> str | None:
    """Describe what is wrong with a value, in words that follow the parameter's name; return None if it is valid."""
    return CHECKS_BY_PARAMETER[name](value)


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def make_number_check(low: int, high: int) -> Check:
    """Return a check that a value is a number within bounds."""
    return lambda value: None if _is_number(value, low, high) else f"must be a number from {low} to {high}"


def make_integer_check(low: int, high: int) -> Check:
    """Return a check that a value is an integer within bounds."""

    def check(value: Any) -> str | None:
        fits = isinstance(value, int) and _is_number(value, low, high)
        return None if fits else f"must be an integer from {low} to {high}"

    return check


def make_neutral_check(*neutral: object) -> Check:
    """Return a check that an unsupported parameter has one of the values that have no effect."""

    def check(value: Any) -> str | None:
        if any(value == one and type(value) is type(one) for one in neutral):
            return None
        allowed = f", except for {' and '.join(map(repr, neutral))}" if neutral else ""
        return f"is not supported here{allowed}; leave it out"

    return check


def _check_boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _check_string(value: Any) -> str | None:
    return None if isinstance(value, str) else "must be a string"


def _check_metadata(value: Any) -> str | None:
    try:
        METADATA_ADAPTER.validate_python(value, strict=True)
    except ValidationError as error:
        limits = "at most 16 keys, of 1 to 64 characters, and strings of at most 512 characters"
        return f"must be an object with {limits} ({error.errors()[0]['msg']})"
    return None


def _check_top_p(value: Any) -> str | None:
    return None if _is_number(value, 0, 1) and value > 0 else "must be a number above 0 and at most 1"


def _check_stop(value: Any) -> str | None:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        return "must be a non-empty string or a list of non-empty strings"
    return next((fault for text in texts if (fault := _check_text(text))), None)


def _check_logit_bias(value: Any) -> str | None:
    if not isinstance(value, dict) or len(value) > MAX_BIASED_TOKENS:
        return f"must be an object with at most {MAX_BIASED_TOKENS} token ids"
    for token, bias in value.items():
        if not (isinstance(token, str) and token.isascii() and token.isdecimal() and len(token) < 10):  # noqa: PLR2004
            return f"has the key {token!r}; keys must be token ids"
        if not _is_number(bias, -100, 100):
            return f"of token {token} must be a number from -100 to 100"
    tokens = Counter(map(int, value))
    repeated = next((token for token, count in tokens.items() if count > 1), None)
    return None if repeated is None else f"has the token {repeated} more than once; keep one"


def _check_text(value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        return "must be a non-empty string"
    return f"contains {LONE_SURROGATE}; write the whole character" if has_lone_surrogate(value) else None


def _check_messages(value: Any) -> str | None:
    if not isinstance(value, list) or not value:
        return "must be a list of messages with role and content"
    faults = (_check_message(message) for message in value)
    return next((f"has {fault[0]} in message {n}{fault[1]}" for n, fault in enumerate(faults, start=1) if fault), None)


def _check_message(message: Any) -> tuple[str, str] | None:
    """Describe what is wrong with a message and how to fix it; return None if it is valid."""
    if not isinstance(message, dict):
        return "a value that is not an object", "; write one with role and content"
    for name, part in message.items():
        if name not in ("role", "content") and part is not None:
            return f"the field {name!r}", ", which is not supported; use role and content"
    if message.get("role") not in ROLES:
        return f"the role {message.get('role')!r}", f"; use one of {', '.join(ROLES)}"
    content = message.get("content")
    if not isinstance(content, str):
        return "content that is not a string", "; only text is supported"
    if has_lone_surrogate(content):
        return LONE_SURROGATE, "; write the whole character"
    return None


CHECKS_BY_PARAMETER: Mapping[str, Check] = {
    "model": _check_text,
    "messages": _check_messages,
    "prompt": _check_text,
    **{name: make_integer_check(1, 2**31 - 1) for name in LENGTH_LIMIT_PARAMETERS},
    "temperature": make_number_check(0, 2),
    "top_p": _check_top_p,
    "top_k": make_integer_check(0, 2**31 - 1),
    "seed": make_integer_check(0, 2**31 - 1),
    "n": make_integer_check(1, 128),
    "stop": _check_stop,
    "presence_penalty": make_number_check(-2, 2),
    "frequency_penalty": make_number_check(-2, 2),
    "logit_bias": _check_logit_bias,
    "top_logprobs": make_integer_check(0, 20),
    # Parameters that are ignored.
    **dict.fromkeys(("user", "prompt_cache_key", "safety_identifier"), _check_string),
    **dict.fromkeys(("store", "parallel_tool_calls"), _check_boolean),
    "metadata": _check_metadata,
    "service_tier": make_neutral_check("auto", "default"),
    # Parameters that are accepted only with values that have no effect.
    "response_format": make_neutral_check({"type": "text"}),
    "modalities": make_neutral_check(["text"]),
    "tools": make_neutral_check([]),
    "tool_choice": make_neutral_check("auto", "none"),
    "functions": make_neutral_check([]),
    "function_call": make_neutral_check("auto", "none"),
    "reasoning_effort": make_neutral_check("none"),
    "verbosity": make_neutral_check("medium"),
    "best_of": make_neutral_check(1),
    "echo": make_neutral_check(False),
    "suffix": make_neutral_check(""),
    **dict.fromkeys(("audio", "moderation", "prediction", "web_search_options"), make_neutral_check()),
    **dict.fromkeys(("prompt_cache_options", "prompt_cache_retention"), make_neutral_check()),
}
