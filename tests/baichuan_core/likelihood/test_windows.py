"""Every token of a text is scored at most once, with the requested context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baichuan_core import DatasetError
from baichuan_core.likelihood import load_calibration_text, load_held_out_text, make_token_rows, split_into_windows


@given(count=st.integers(2, 300), length=st.integers(2, 80), data=st.data())
def test_overlapping_windows_score_every_token_except_the_first_once(
    count: int, length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, length - 1))
    ids = list(range(count))
    windows = split_into_windows(ids, length=length, stride=stride)
    assert [token for window in windows for token in window.token_ids[window.first_scored :]] == ids[1:]
    assert all(len(window.token_ids) <= length for window in windows)
    for window in windows[1:]:
        assert window.first_scored >= length - stride


@given(count=st.integers(2, 300), length=st.integers(2, 80))
def test_windows_without_overlap_skip_the_first_token_of_each(count: int, length: int) -> None:
    windows = split_into_windows(range(count), length=length, stride=length)
    scored = [token for window in windows for token in window.token_ids[window.first_scored :]]
    assert scored == [token for token in range(count) if token % length]


@pytest.mark.parametrize(("length", "stride"), [(8, 0), (8, 9), (1, 1)])
def test_impossible_windows_are_rejected(length: int, stride: int) -> None:
    with pytest.raises(ValueError, match="use 1 <= stride <= length"):
        split_into_windows([1, 2, 3], length=length, stride=stride)


def test_a_text_that_is_too_short_is_rejected() -> None:
    with pytest.raises(DatasetError, match="1 tokens, too few"):
        split_into_windows([7], length=8, stride=8)
    with pytest.raises(DatasetError, match=r"2 sequences of 5 need 10"):
        make_token_rows(list(range(9)), rows=2, length=5)


def test_rows_are_consecutive() -> None:
    assert make_token_rows(list(range(11)), rows=2, length=5).tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_built_in_texts_have_two_languages_and_no_duplicate_paragraphs() -> None:
    paragraphs = [text.split("\n\n") for text in (load_calibration_text(), load_held_out_text())]
    both = [paragraph for text in paragraphs for paragraph in text]
    assert len(both) == len(set(both))
    for text in paragraphs:
        chinese = sum("\u4e00" <= character <= "\u9fff" for paragraph in text for character in paragraph)
        latin = sum(character.isascii() for paragraph in text for character in paragraph)
        assert min(chinese, latin) > 2500
