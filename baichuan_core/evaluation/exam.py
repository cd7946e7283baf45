"""Reads the subjects of a benchmark, with the questions and examples of each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from baichuan_core.errors import DatasetError

from .benchmarks import EXAMPLES_FOLDER, Benchmark
from .questions import Question, parse_questions
from .sources import read_csv_files


@dataclass(frozen=True, slots=True)
class SubjectExam:
    """One subject, with the `examples` shown in prompts and the `questions` that the model answers."""

    subject: str
    examples: Sequence[Question]
    questions: Sequence[Question]


def read_exams(
    data: Path, benchmark: Benchmark, *, split: str, shots: int, subjects: Collection[str] | None, limit: int | None
) -> list[SubjectExam]:
    """Read the subjects to evaluate, sorted by name.

    Args:
        data: Directory or archive in the benchmark's published layout; subjects may be missing.
        benchmark: The benchmark that the data belongs to.
        split: Folder of the questions.
        shots: Number of examples per question.
        subjects: Read only these subjects.
        limit: Maximum number of questions per subject; the first ones are used.

    Raises:
        DatasetError: Data is missing, malformed or from a different benchmark.
    """
    contents = read_csv_files(data)
    found = _list_subjects(contents, benchmark, split)
    chosen = found if subjects is None else _select_subjects(found, subjects, benchmark, split)
    return [_read_subject(contents, benchmark, subject, split, shots, limit) for subject in chosen]


def _list_subjects(contents: Mapping[str, bytes], benchmark: Benchmark, split: str) -> list[str]:
    known = {benchmark.get_csv_path(subject, split): subject for subject in benchmark.get_subjects()}
    files = [name for name in sorted(contents) if name.startswith(f"{split}/")]
    for name in files:
        if name not in known:
            expected = benchmark.get_csv_path("SUBJECT", split)
            raise DatasetError(
                f"{name} does not belong to {benchmark.title} (expected {expected}): remove or rename it"
            )
    if not files:
        raise DatasetError(
            f"the data has no folder {split!r} with CSV files: evaluate a different split or add the folder"
        )
    return sorted(known[name] for name in files)


def _select_subjects(found: Sequence[str], wanted: Collection[str], benchmark: Benchmark, split: str) -> list[str]:
    for subject in wanted:
        if subject not in benchmark.get_subjects():
            raise DatasetError(
                f"{benchmark.title} has no subject {subject!r}: use names such as {', '.join(found[:3])}"
            )
        if subject not in found:
            raise DatasetError(
                f"{benchmark.get_csv_path(subject, split)} is missing from the data: add the file or remove the subject"
            )
    return [subject for subject in found if subject in wanted]


def _read_subject(
    contents: Mapping[str, bytes], benchmark: Benchmark, subject: str, split: str, shots: int, limit: int | None
) -> SubjectExam:
    file = benchmark.get_csv_path(subject, split)
    questions = parse_questions(contents[file], file, header=benchmark.header)
    if not questions:
        raise DatasetError(f"{file} contains no questions: add some or remove the file")
    examples = _read_examples(contents, benchmark, subject, shots) if shots else []
    return SubjectExam(subject, examples, questions[:limit])


def _read_examples(contents: Mapping[str, bytes], benchmark: Benchmark, subject: str, shots: int) -> list[Question]:
    file = benchmark.get_csv_path(subject, EXAMPLES_FOLDER)
    if file not in contents:
        raise DatasetError(f"{file} with the examples for {subject} is missing: add the file or use 0 shots")
    examples = parse_questions(contents[file], file, header=benchmark.header)
    if len(examples) < shots:
        raise DatasetError(f"{file} has {len(examples)} examples, but {shots} shots were requested: use fewer shots")
    return examples[:shots]
