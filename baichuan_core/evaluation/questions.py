"""Reads multiple-choice questions from the published CSV files of a benchmark."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from baichuan_core.errors import DatasetError

ANSWER_LETTERS = ("A", "B", "C", "D")
QUESTION_COLUMNS = ("question", "a", "b", "c", "d", "answer")


@dataclass(frozen=True, slots=True)
class Question:
    """A question with four choices.

    Attributes:
        text: The question.
        choices: The texts of A, B, C and D.
        answer: The correct letter.
    """

    text: str
    choices: tuple[str, str, str, str]
    answer: str


def parse_questions(content: bytes, file: str, *, header: bool) -> list[Question]:
    """Parse the questions of a CSV file; text is kept exactly as written.

    Args:
        content: The file's bytes.
        file: The file's name, for error messages.
        header: Whether the first line contains the column names (at least question, A, B, C, D and answer, in upper or
            lower case). If not, the file has exactly these six columns in this order.

    Raises:
        DatasetError: The file is not UTF-8, a row is malformed, or an answer is not A, B, C or D; the message
            names the file and line.
    """
    rows = _read_rows(content, file)
    places = _find_columns(rows, file) if header else {column: place for place, column in enumerate(QUESTION_COLUMNS)}
    return [_parse_row(cells, f"{file} line {line}", places, exact=not header) for line, cells in rows]


def _read_rows(content: bytes, file: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the non-empty rows, each with the number of its first line."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not UTF-8 (byte {error.start + 1}): save it as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    line = 1
    try:
        for cells in reader:
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(f"{file} line {line} is not valid CSV ({error}): check its quotation marks") from error


def _find_columns(rows: Iterator[tuple[int, list[str]]], file: str) -> dict[str, int]:
    _, names = next(rows, (1, []))
    places = {name.strip().lower(): place for place, name in enumerate(names)}
    missing = [column for column in QUESTION_COLUMNS if column not in places]
    if missing == ["answer"]:
        raise DatasetError(
            f"{file} has no column 'answer': C-Eval does not publish the answers to its test split; "
            "evaluate the val split"
        )
    if missing:
        raise DatasetError(
            f"{file} line 1 has no column {missing[0]!r}: the columns must include question, A, B, C, D and answer"
        )
    return {column: places[column] for column in QUESTION_COLUMNS}


def _parse_row(cells: list[str], place: str, places: dict[str, int], *, exact: bool) -> Question:
    expected = max(places.values()) + 1
    if len(cells) < expected or (exact and len(cells) > expected):
        raise DatasetError(f"{place} has {len(cells)} cells instead of {expected}: check commas and quotation marks")
    text, a, b, c, d, answer = (cells[places[column]] for column in QUESTION_COLUMNS)
    if answer.strip() not in ANSWER_LETTERS:
        raise DatasetError(f"{place} has the answer {answer.strip()[:40]!r}: it must be A, B, C or D")
    return Question(text, (a, b, c, d), answer.strip())
