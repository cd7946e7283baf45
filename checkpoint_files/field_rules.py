"""What a field of a JSON file may hold, in one form for the code and for the message."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import FileError

MAX_SHOWN_CHARACTERS = 100  # of a value, in a message


def show(value: Any) -> str:
    """Return a value as messages show it, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}…"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a field may hold.

    Attributes:
        holds: Whether a value is allowed.
        wants: The allowed values in words, after "give".
        nullable: Whether null is allowed, as if the field were missing.
    """

    holds: Callable[[Any], bool]
    wants: str
    nullable: bool = True

    def check(self, name: str, value: Any) -> None:
        """Raise FileError if a field has a value that is not allowed."""
        if value is None and self.nullable:
            return
        if not self.holds(value):
            shown = "null" if value is None else show(value)
            raise FileError(f"{name} is {shown}: give {self.wants}")


def check_fields(fields: Mapping[str, Any], rules: Mapping[str, Rule], *, within: str = "") -> None:
    """Check the fields that are present.

    Args:
        fields: The object in the file.
        rules: What each of its fields may hold.
        within: Name of the field that the object stands in, with a dot: "rope_scaling."

    Raises:
        FileError: The first field whose value is not allowed.
    """
    for name, rule in rules.items():
        if name in fields:
            rule.check(f"{within}{name}", fields[name])


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    most = sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; booleans are none."""
    return type(value) is int


def is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return is_number(value) and value > 0


def is_token(value: Any) -> bool:
    """Whether a value can be the id of a token, which engines keep in 32 bits."""
    return is_whole(value) and 0 <= value < 2**31


def is_token_or_tokens(value: Any) -> bool:
    """Whether a value is the id of a token or a list of them."""
    return all(map(is_token, value)) if isinstance(value, list) else is_token(value)


def number_from(low: float, high: float, *, hint: str = "") -> "Rule":
    """Return the rule of a number within bounds."""
    wants = f"a number from {low:g} to {high:g}{hint and f' ({hint})'}"
    return Rule(lambda value: is_number(value) and low <= value <= high, wants)


def whole_number_from(low: int, high: int, *, hint: str = "") -> "Rule":
    """Return the rule of a whole number within bounds."""
    wants = f"a whole number from {low} to {high}{hint and f' ({hint})'}"
    return Rule(lambda value: is_whole(value) and low <= value <= high, wants)


def is_whole_or_wholes(value: Any) -> bool:
    """Whether a value is a whole number or a list of them."""
    return all(map(is_whole, value)) if isinstance(value, list) else is_whole(value)


def is_switch(value: Any) -> bool:
    """Whether a value is true or false, or 1 or 0 as in files of old tools."""
    return value in (True, False)


def is_texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


NUMBER = Rule(is_number, "a number")
POSITIVE = Rule(is_positive, "a number above 0")
TOKEN = Rule(is_token, "a whole number of at least 0, the id of a token")
TOKENS = Rule(is_token_or_tokens, "a whole number of at least 0, the id of a token, or a list of them")
SWITCH = Rule(is_switch, "true or false")
