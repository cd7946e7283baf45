"""Times in SQL are milliseconds; clients see whole seconds, as in OpenAI's API."""


def seconds(milliseconds: int) -> int:
    """Whole seconds of a time in milliseconds."""
    return milliseconds // 1000


def optional_seconds(milliseconds: int | None) -> int | None:
    """Whole seconds of a time that may not have come."""
    return None if milliseconds is None else milliseconds // 1000
