"""Conditional requests: If-Match, If-None-Match, If-Range and Range (RFC 9110)."""

import re
from dataclasses import dataclass

ETAG_PATTERN = re.compile(r'"([^"]*)"')
RANGE_PATTERN = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def matches_if_none_match(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names this entity tag, using weak comparison as the standard requires."""
    if header is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag.removeprefix("W/") in tags


def satisfies_if_match(header: str | None, etag: str) -> bool:
    """Whether an If-Match header allows this entity tag, using strong comparison: a weak tag matches nothing."""
    if header is None or header.strip() == "*":
        return True
    return etag in [tag.strip() for tag in header.split(",")]


def parse_if_match(header: str | None) -> frozenset[str] | None:
    """Parse an If-Match header into the entity tags that it allows, without quotes; None allows all.

    Weak tags are left out: the comparison is strong, so they match nothing.
    """
    if header is None or header.strip() == "*":
        return None
    tags = (tag.strip() for tag in header.split(","))
    return frozenset(found[1] for tag in tags if (found := ETAG_PATTERN.fullmatch(tag)))


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A range of bytes, [start, stop)."""

    start: int
    stop: int


class UnsatisfiableRangeError(Exception):
    """The range begins after the end of the file."""


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """Return the range of bytes that a Range header requests from a file of `size` bytes; None means the whole file.

    Multiple ranges, other units and malformed ranges are ignored, as the standard allows.

    Raises:
        UnsatisfiableRangeError: the file has no bytes in that range.
    """
    found = RANGE_PATTERN.fullmatch((header or "").replace(" ", "").lower())
    if found is None:
        return None
    first, last = found.groups()
    match (first, last):
        case ("", ""):
            return None
        case ("", suffix):
            start, stop = max(size - int(suffix), 0), size
        case (_, ""):
            start, stop = int(first), size
        case _:
            start, stop = int(first), min(int(last) + 1, size)
            if int(last) < start:
                return None
    if start >= size or start >= stop:
        raise UnsatisfiableRangeError
    return ByteRange(start, stop)
