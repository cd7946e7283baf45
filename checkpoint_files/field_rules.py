"""Rules for the values of fields in JSON files, each with a description for messages."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import FileError

MAX_SHOWN_CHARACTERS = 100  # maximum length of a value in a message


def show(value: Any) -> str:
    """Return a value's representation for messages, truncated to a readable length."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}…"


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on the values of a field.

    Attributes:
        is_allowed: Returns whether a value is allowed.
        allowed: Description of the allowed values for messages, e.g. "a number above 0".
        nullable: Whether null is allowed and treated like a missing field.
    """

    is_allowed: Callable[[Any], bool]
    allowed: str
    nullable: bool = True

    def check(self, name: str, value: Any) -> None:
        """Raise FileError if a field has a value that is not allowed."""
        if value is None and self.nullable:
            return
        if not self.is_allowed(value):
            shown = "null" if value is None else show(value)
            raise FileError(f"{name} is {shown}: set it to {self.allowed}")


def check_fields(fields: Mapping[str, Any], rules: Mapping[str, Rule], *, within: str = "") -> None:
    """Check the fields that are present.

    Args:
        fields: The JSON object.
        rules: The rule for each field, by name.
        within: Name of the field that contains the object, followed by a dot, e.g. "rope_scaling."

    Raises:
        FileError: A value is not allowed; the message names the first such field.
    """
    for name, rule in rules.items():
        if name in fields:
            rule.check(f"{within}{name}", fields[name])


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    maximum = sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and -maximum <= value <= maximum


def is_whole(value: Any) -> bool:
    """Whether a value is an integer; booleans do not count."""
    return type(value) is int


def is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return is_number(value) and value > 0


def is_token(value: Any) -> bool:
    """Whether a value can be a token id, which engines store in 32 bits."""
    return is_whole(value) and 0 <= value < 2**31


def is_token_or_tokens(value: Any) -> bool:
    """Whether a value is a token id or a list of token ids."""
    return all(map(is_token, value)) if isinstance(value, list) else is_token(value)


def number_from(low: float, high: float, *, hint: str = "") -> "Rule":
    """Return a rule for numbers within bounds."""
    wants = f"a number from {low:g} to {high:g}{hint and f' ({hint})'}"
    return Rule(lambda value: is_number(value) and low <= value <= high, wants)


def whole_number_from(low: int, high: int, *, hint: str = "") -> "Rule":
    """Return a rule for integers within bounds."""
    wants = f"an integer from {low} to {high}{hint and f' ({hint})'}"
    return Rule(lambda value: is_whole(value) and low <= value <= high, wants)


def is_integer_or_list(value: Any) -> bool:
    """Whether a value is an integer or a list of integers."""
    return all(map(is_whole, value)) if isinstance(value, list) else is_whole(value)


def is_switch(value: Any) -> bool:
    """Whether a value is true or false, or 1 or 0 as old tools write them."""
    return value in (True, False)


def is_string_list(value: Any) -> bool:
    """Whether a value is a list of strings."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


NUMBER = Rule(is_number, "a number")
POSITIVE = Rule(is_positive, "a number above 0")
TOKEN = Rule(is_token, "a token id (an integer of at least 0)")
TOKENS = Rule(is_token_or_tokens, "a token id (an integer of at least 0) or a list of token ids")
SWITCH = Rule(is_switch, "true or false")
