"""What a model is asked: the subjects that data holds, with the questions and the examples of each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from baichuan_core.errors import DatasetError

from .benchmarks import EXAMPLES, Benchmark
from .questions import Question, parse_questions
from .sources import read_csv_files


@dataclass(frozen=True, slots=True)
class Paper:
    """One subject: `examples` are shown with their answers, and `questions` are asked."""

    subject: str
    examples: Sequence[Question]
    questions: Sequence[Question]


def read_exam(
    data: Path, benchmark: Benchmark, *, split: str, shots: int, subjects: Collection[str] | None, limit: int | None
) -> list[Paper]:
    """The subjects to ask about, in the order of their names.

    Args:
        data: Directory or archive in the benchmark's published layout; subjects may be missing.
        benchmark: Which one.
        split: Folder of the questions.
        shots: Examples a question.
        subjects: Ask only about these.
        limit: Ask only the first questions of each subject.

    Raises:
        DatasetError: Data is missing, malformed or of another benchmark.
    """
    contents = read_csv_files(data)
    found = _subjects(contents, benchmark, split)
    chosen = found if subjects is None else _chosen(found, subjects, benchmark, split)
    return [_paper(contents, benchmark, subject, split, shots, limit) for subject in chosen]


def _subjects(contents: Mapping[str, bytes], benchmark: Benchmark, split: str) -> list[str]:
    known = {benchmark.file_name(subject, split): subject for subject in benchmark.subjects()}
    files = [name for name in sorted(contents) if name.startswith(f"{split}/")]
    for name in files:
        if name not in known:
            expected = benchmark.file_name("SUBJECT", split)
            raise DatasetError(f"{name} is no subject of {benchmark.title} ({expected}): remove it or correct its name")
    if not files:
        raise DatasetError(f"the data has no folder {split!r} with questions: evaluate another split, or add it")
    return sorted(known[name] for name in files)


def _chosen(found: Sequence[str], wanted: Collection[str], benchmark: Benchmark, split: str) -> list[str]:
    for subject in wanted:
        if subject not in benchmark.subjects():
            raise DatasetError(
                f"{benchmark.title} has no subject {subject!r}: use names such as {', '.join(found[:3])}"
            )
        if subject not in found:
            raise DatasetError(f"{benchmark.file_name(subject, split)} is missing in the data: add it or leave it out")
    return [subject for subject in found if subject in wanted]


def _paper(
    contents: Mapping[str, bytes], benchmark: Benchmark, subject: str, split: str, shots: int, limit: int | None
) -> Paper:
    file = benchmark.file_name(subject, split)
    questions = parse_questions(contents[file], file, header=benchmark.header)
    if not questions:
        raise DatasetError(f"{file} holds no question: add some or remove the file")
    examples = _examples(contents, benchmark, subject, shots) if shots else []
    return Paper(subject, examples, questions[:limit])


def _examples(contents: Mapping[str, bytes], benchmark: Benchmark, subject: str, shots: int) -> list[Question]:
    file = benchmark.file_name(subject, EXAMPLES)
    if file not in contents:
        raise DatasetError(f"{file} is missing, which holds the examples of {subject}: add it, or ask with 0 shots")
    examples = parse_questions(contents[file], file, header=benchmark.header)
    if len(examples) < shots:
        raise DatasetError(f"{file} holds {len(examples)} examples, fewer than {shots} shots: ask with fewer shots")
    return examples[:shots]
