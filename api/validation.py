"""Rewords pydantic's errors so that they tell clients which field to change, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.specs import KINDS

MAX_SHOWN_ERRORS = 20
REMEDIES = {
    "missing": "this field is required; add it",
    "extra_forbidden": "there is no such field; remove it or correct its name",
    "union_tag_not_found": f"must be one of {', '.join(KINDS)}",
    "union_tag_invalid": f"must be one of {', '.join(KINDS)}",
}
REQUEST_PARTS = ("body", "query", "path", "header")


@dataclass(frozen=True, slots=True)
class FieldError:
    """An error in a request; `param` is the dotted path of the field, or None for the whole body."""

    param: str | None
    message: str


def to_field_errors(found: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    """Return the first 20 validation errors, worded for clients."""
    return [FieldError(_find_param(entry), _describe_error(entry)) for entry in found[:MAX_SHOWN_ERRORS]]


def _find_param(entry: Mapping[str, Any]) -> str | None:
    if entry["type"] == "json_invalid":
        return None
    if entry["type"].startswith("union_tag"):
        return "kind"
    if entry["type"] == "parameter":  # raised by a cross-field check, which names the field at fault
        return str(entry["ctx"]["param"])
    location = list(entry["loc"])
    if location and location[0] in REQUEST_PARTS:
        location.pop(0)
    if location and entry["loc"][0] == "body" and location[0] in KINDS:
        location.pop(0)  # pydantic includes the union member's name, which is not part of the request
    if _is_key_error(location):
        del location[-2:]
    return ".".join(str(part) for part in location) or None


def _is_key_error(location: Sequence[Any]) -> bool:
    """Whether a key of an object is at fault; pydantic's location then ends with the key and "[key]"."""
    return "[key]" in location[2:][-1:]


def _describe_error(entry: Mapping[str, Any]) -> str:
    if _is_key_error(entry["loc"]):
        key = entry["loc"][-2]
        return f"the key {key!r} is not valid: {_describe_error({**entry, 'loc': ()})}"
    context = entry.get("ctx") or {}
    match entry["type"]:
        case "json_invalid":
            return f"the body is not valid JSON: {context.get('error', 'unreadable')} at character {entry['loc'][-1]}"
        case "value_error":
            return str(context.get("error", entry["msg"]))
        case "string_pattern_mismatch":
            return f"must match {context.get('pattern')}"
        case other:
            return REMEDIES.get(other) or str(entry["msg"])
