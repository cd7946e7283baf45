"""Converts times from milliseconds, as in SQL, to whole seconds, as in OpenAI's API."""


def to_seconds(milliseconds: int) -> int:
    """Convert a time from milliseconds to whole seconds."""
    return milliseconds // 1000


def to_optional_seconds(milliseconds: int | None) -> int | None:
    """Convert a time from milliseconds to whole seconds; None stays None."""
    return None if milliseconds is None else milliseconds // 1000
