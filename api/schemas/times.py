"""Times in SQL are milliseconds; clients see whole seconds, as in OpenAI's API."""


def to_seconds(milliseconds: int) -> int:
    """Return a time in milliseconds as whole seconds."""
    return milliseconds // 1000


def to_optional_seconds(milliseconds: int | None) -> int | None:
    """Return a time in milliseconds as whole seconds, and None as None."""
    return None if milliseconds is None else milliseconds // 1000
