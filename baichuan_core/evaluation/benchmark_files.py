"""What an evaluation on a benchmark writes: the figures, a table for people, and every single answer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from .answers import Answer
from .benchmark_report import BenchmarkReport, ModelAccuracy
from .statistics import Accuracy, Difference
from .written import REPORT, TABLE, write_text

ANSWERS = "answers.jsonl"

T = TypeVar("T")


def write_benchmark_files(
    report: BenchmarkReport, answers: Sequence[Mapping[str, Sequence[Answer]]], output: Path
) -> None:
    """Write `answers.jsonl`, `evaluation.md` and `evaluation.json`, which comes last."""
    write_text(output / ANSWERS, "".join(_lines(answers)))
    write_text(output / TABLE, benchmark_table(report))
    write_text(output / REPORT, json.dumps(asdict(report), ensure_ascii=False, indent=2) + "\n")


def benchmark_table(report: BenchmarkReport) -> str:
    """The report as Markdown."""
    head = ["", "questions", report.model.name]
    if report.compared_with:
        head += [report.compared_with.name, "difference", "95% interval", "same letter"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *_rows(report)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    notes = [f"Accuracies in percent; those of categories and of all are means over their {report.averaging}."]
    notes += [_note(model) for model in (report.model, report.compared_with) if model and model.fewer_shots]
    notes += [report.comparison.method] if report.comparison else []
    return f"# {report.benchmark}, {report.split}, {report.shots} shots\n\n{table}\n" + "\n\n".join(notes) + "\n"


def _rows(report: BenchmarkReport) -> Iterator[list[str]]:
    model, other, comparison = report.model, report.compared_with, report.comparison
    theirs = _flat(other.total, other.categories, other.subjects) if other else {}
    differences = _flat(comparison.total, comparison.categories, comparison.subjects) if comparison else {}
    for title, mine in _flat(model.total, model.categories, model.subjects).items():
        yield _cells(title, mine, theirs.get(title), differences.get(title))


def _flat(total: T, categories: Mapping[str, T], subjects: Mapping[str, T]) -> dict[str, T]:
    """One line a figure, by its title in the table."""
    return {"**all**": total} | {f"**{name}**": figure for name, figure in categories.items()} | dict(subjects)


def _cells(title: str, mine: Accuracy, theirs: Accuracy | None, difference: Difference | None) -> list[str]:
    cells = [title, str(mine.questions), f"{100 * mine.accuracy:.2f}"]
    if theirs and difference:
        cells += [f"{100 * theirs.accuracy:.2f}", f"{100 * difference.difference:+.2f}"]
        cells += [f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}", f"{100 * difference.same_letter:.1f}"]
    return cells


def _note(model: ModelAccuracy) -> str:
    return (
        f"{model.name}: {model.fewer_shots} questions had fewer examples before them, for its window holds no more; "
        f"{model.cut} of them lost their beginning."
    )


def _lines(answers: Sequence[Mapping[str, Sequence[Answer]]]) -> Iterator[str]:
    """One question a line: what is right, and what each model answered."""
    for subject, rows in answers[0].items():
        for place, row in enumerate(rows):
            line = {"subject": subject, "number": place + 1, "right": row.right}
            for field, one in zip(("model", "compared_with"), answers, strict=False):
                given = one[subject][place]
                line[field] = {"letter": given.letter, "log_likelihoods": given.log_likelihoods, "shots": given.shots}
            yield json.dumps(line, ensure_ascii=False) + "\n"
