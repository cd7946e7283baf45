"""CSV files are read exactly as written, and errors name file and line."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baichuan_core import DatasetError
from baichuan_core.evaluation.benchmarks import BENCHMARKS
from baichuan_core.evaluation.exam import read_exams
from baichuan_core.evaluation.questions import Question, parse_questions

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=30)
QUESTIONS = st.lists(st.builds(Question, TEXT, st.tuples(TEXT, TEXT, TEXT, TEXT), st.sampled_from("ABCD")), max_size=5)


def written(rows: list[list[str]]) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue().encode("utf-8-sig")


@given(QUESTIONS)
def test_written_questions_are_read_back(questions: list[Question]) -> None:
    cells = [[one.text, *one.choices, one.answer] for one in questions]
    assert parse_questions(written(cells), "x.csv", header=False) == questions
    named = [["", "Question", "A", "B", "C", "D", "Answer", "explanation"], *(["7", *row, "why"] for row in cells)]
    assert parse_questions(written(named), "x.csv", header=True) == questions


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'"two\nlines",1,2,3,4,A\nq,1,2,3,4,E\n', "x.csv line 3 has the answer 'E': it must be A, B, C or D"),
        (b"q,1,2,3,A\n", "x.csv line 1 has 5 cells instead of 6"),
        (b"q,1,2,3,4,5,A\n", "x.csv line 1 has 7 cells instead of 6"),
        (b'q,1,2,3,4,A\n"open,1,2,3,4,A\n', "x.csv line 2 has 1 cells instead of 6"),
        (b"q,1,2,3,4,A\n\xff,1,2,3,4,A\n", r"x.csv is not UTF-8 \(byte 13\)"),
        (b"q" * 200_000, "x.csv line 1 is not valid CSV"),
    ],
)
def test_a_malformed_row_names_file_and_line(content: bytes, says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        parse_questions(content, "x.csv", header=False)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"id,question,A,B,C,D\n0,q,1,2,3,4\n",
            "no column 'answer': C-Eval does not publish the answers to its test split",
        ),
        (b"id,question,A,B,C,answer\n0,q,1,2,3,A\n", "line 1 has no column 'd'"),
        (b"", "line 1 has no column 'question'"),
        (b"id,question,A,B,C,D,answer\n0,q,1,2,3,4,A\n1,q\n", "line 3 has 2 cells instead of 7"),
    ],
)
def test_a_malformed_header_is_rejected(content: bytes, says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        parse_questions(content, "x.csv", header=True)


def read(folder: Path, **options: object) -> list[str]:
    chosen = {"split": "val", "shots": 5, "subjects": None, "limit": None, **options}
    exams = read_exams(folder, BENCHMARKS["ceval"], **chosen)  # type: ignore[arg-type] # each test's own
    return [f"{exam.subject} {len(exam.examples)} {len(exam.questions)}" for exam in exams]


def test_subjects_and_questions_can_be_chosen(data: Path) -> None:
    ceval = data / "ceval"
    assert read(ceval) == ["advanced_mathematics 5 4", "computer_network 5 4", "logic 5 4"]
    assert read(ceval, subjects=["logic"], limit=3, shots=2) == ["logic 2 3"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"subjects": ["law"]}, "val/law_val.csv is missing from the data"),
        ({"subjects": ["magic"]}, "C-Eval has no subject 'magic'"),
        ({"shots": 6}, "dev/advanced_mathematics_dev.csv has 5 examples, but 6 shots were requested"),
        ({"split": "test"}, "C-Eval does not publish the answers to its test split"),
    ],
)
def test_missing_data_is_named(data: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        read(data / "ceval", **options)


def test_files_of_another_benchmark_or_without_questions_are_rejected(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"test/chinese_history.csv does not belong to C-Eval"):
        read(data / "cmmlu", split="test")
    with pytest.raises(DatasetError, match="no folder 'val'"):
        read(data / "mmlu")
    (tmp_path / "val").mkdir()
    file = tmp_path / "val" / "logic_val.csv"
    file.write_text("id,question,A,B,C,D,answer\n0,q,1,2,3,4,A\n")
    with pytest.raises(DatasetError, match=r"dev/logic_dev.csv with the examples for logic is missing"):
        read(tmp_path)
    assert read(tmp_path, shots=0) == ["logic 0 1"]
    file.write_text("id,question,A,B,C,D,answer\n")
    with pytest.raises(DatasetError, match="contains no questions"):
        read(tmp_path, shots=0)
