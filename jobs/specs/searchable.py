"""Searchable text of specs and errors for job lists, written when a job is submitted or fails."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

MAX_VALUE_LENGTH = 128  # maximum number of characters in a searchable value; longer values are skipped
MAX_NUMBER_WITHOUT_EXPONENT = 10**15  # larger numbers are written with an exponent
MAX_LIST_LENGTH = 32  # maximum length of a list whose elements are searchable


def build_searchable_fields(spec: Mapping[str, Any]) -> str:
    r"""Return the scalars of a spec as `name=value` lines, each between line breaks.

    Example: `{"bits": 4, "resources": {"nodes": 1}, "stop": ["a", "b"]}` becomes
    `"\nbits=4\nresources.nodes=1\nstop=a\nstop=b\n"`.
    """
    return "\n".join(["", *(f"{name}={value}" for name, value in _iterate_scalars("", spec)), ""])


def build_search_lines(name: str, value: str) -> list[str]:
    """Return the lines that match a field with this value, as a string or as the number that it represents."""
    return sorted({f"\n{name}={value}\n", f"\n{name}={_normalize_number(value)}\n"})


def build_searchable_error(error: Mapping[str, Any] | None) -> str | None:
    """Return the searchable text of an error."""
    return None if error is None else f"{error.get('code', '')} {error.get('message', '')}"


def _iterate_scalars(name: str, value: Any) -> Iterator[tuple[str, str]]:
    match value:
        case Mapping():
            for key, inner in value.items():
                yield from _iterate_scalars(f"{name}.{key}" if name else str(key), inner)
        case list():
            for inner in value if len(value) <= MAX_LIST_LENGTH else ():
                if not isinstance(inner, Mapping | list):  # skip nested lists and objects, such as conversations
                    yield from _iterate_scalars(name, inner)
        case _:
            text = _format_scalar(value)
            if len(text) <= MAX_VALUE_LENGTH and "\n" not in text:
                yield name, text


def _format_scalar(value: Any) -> str:
    """Format a scalar; integers are written without a fraction, so that 4 finds 4.0."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_NUMBER_WITHOUT_EXPONENT:
        value = int(value)
    return json.dumps(value)


def _normalize_number(value: str) -> str:
    try:
        return _format_scalar(float(value))
    except (ValueError, OverflowError):
        return value
