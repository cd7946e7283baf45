"""Range headers according to RFC 9110, and entity tags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.conditions import UnsatisfiableRangeError, matches_if_none_match, parse_range

SIZES = st.integers(0, 10_000)


@given(st.one_of(st.none(), st.text(), st.from_regex(r"\A(bytes=)?[-0-9, ]*\Z")), SIZES)
def test_no_header_causes_an_error_and_every_range_is_within_the_file(header: str | None, size: int) -> None:
    try:
        part = parse_range(header, size)
    except UnsatisfiableRangeError:
        return
    assert part is None or 0 <= part.start < part.stop <= size


@given(SIZES, SIZES, SIZES)
def test_a_range_equals_a_slice(first: int, last: int, size: int) -> None:
    content = bytes(size)
    wanted = content[first : last + 1]
    if last < first:
        assert parse_range(f"bytes={first}-{last}", size) is None
    elif not wanted:
        with pytest.raises(UnsatisfiableRangeError):
            parse_range(f"bytes={first}-{last}", size)
    else:
        part = parse_range(f"bytes={first}-{last}", size)
        assert part is not None
        assert (part.start, part.stop - part.start) == (first, len(wanted))


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_suffix_is_the_end_of_the_file(length: int, size: int) -> None:
    part = parse_range(f"bytes=-{length}", size)
    assert part is not None
    assert (part.start, part.stop) == (max(0, size - length), size)


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, False), ("", False), ('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False)],
)
def test_entity_tags(header: str | None, expected: bool) -> None:
    assert matches_if_none_match(header, '"a"') is expected
