"""Output is split into lines, and limited in size."""

from hypothesis import given
from hypothesis import strategies as st

from workers.logs import MAX_LINE_BYTES, LineSplitter, LogBudget


@given(st.lists(st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]))), st.integers(1, 7))
def test_lines_are_the_same_however_the_bytes_arrive(lines: list[str], size: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    reader = LineSplitter()
    seen = [line for start in range(0, len(data), size) for line in reader.feed(data[start : start + size])]
    assert seen + reader.close() == lines


def test_only_the_final_state_of_a_progress_bar_counts() -> None:
    assert LineSplitter().feed(b"\r 10%|#\r100%|####\r\n") == ["100%|####"]


def test_bytes_that_are_not_text_are_replaced() -> None:
    assert LineSplitter().feed(b"a\xff\0b\n") == ["a\ufffd\ufffdb"]


def test_an_endless_line_is_cut() -> None:
    reader = LineSplitter()
    assert [len(line) for line in reader.feed(b"x" * (MAX_LINE_BYTES + 1))] == [MAX_LINE_BYTES + 1]
    assert reader.feed(b"y\n") == ["y"]


def test_beyond_the_budget_one_note_and_no_more() -> None:
    budget = LogBudget(10)
    assert budget.limit_lines(["1234", "5678"]) == ["1234", "5678"]
    assert budget.limit_lines(["9", "0"]) == ["[output beyond 10 bytes is omitted]"]
    assert budget.limit_lines(["more"]) == []
