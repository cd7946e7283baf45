"""Data larger than memory: the peak does not grow with the data."""

from pathlib import Path

import pytest

from benchmarks.large_data import MEGABYTE, measure


@pytest.mark.alone
@pytest.mark.parametrize("lines", [False, True], ids=["array", "lines"])
def test_memory_does_not_grow_with_the_data(tmp_path: Path, lines: bool) -> None:
    """In memory, the larger data set would take over 200 MB more: 30 bytes per token and the text."""
    small = measure(tmp_path / "small", 2 * MEGABYTE, lines=lines)
    large = measure(tmp_path / "large", 32 * MEGABYTE, lines=lines)
    assert large.tokens > 10 * small.tokens
    assert large.peak - small.peak < 48 * MEGABYTE


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_gigabytes_of_data_train_in_less_than_one_of_memory(tmp_path: Path) -> None:
    assert measure(tmp_path, 2000 * MEGABYTE).peak < 1000 * MEGABYTE
