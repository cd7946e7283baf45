"""Writes the results of a benchmark evaluation: metrics as JSON, a Markdown table, and every answer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from .answers import Answer
from .benchmark_report import BenchmarkReport, ModelAccuracy
from .result_files import REPORT_FILE, TABLE_FILE, write_text_atomically
from .statistics import Accuracy, AccuracyDifference

ANSWERS_FILE = "answers.jsonl"

T = TypeVar("T")


def write_benchmark_files(
    report: BenchmarkReport, answers: Sequence[Mapping[str, Sequence[Answer]]], output: Path
) -> None:
    """Write `answers.jsonl`, `evaluation.md` and, last, `evaluation.json`."""
    write_text_atomically(output / ANSWERS_FILE, "".join(_format_answer_lines(answers)))
    write_text_atomically(output / TABLE_FILE, format_table(report))
    write_text_atomically(output / REPORT_FILE, json.dumps(asdict(report), ensure_ascii=False, indent=2) + "\n")


def format_table(report: BenchmarkReport) -> str:
    """Format the report as Markdown."""
    head = ["", "questions", report.model.name]
    if report.compared_with:
        head += [report.compared_with.name, "difference", "95% interval", "same letter"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *_format_rows(report)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    notes = [f"Accuracies are percentages; category and overall accuracies are means over {report.averaging}."]
    notes += [
        _format_shots_note(model) for model in (report.model, report.compared_with) if model and model.fewer_shots
    ]
    notes += [report.comparison.method] if report.comparison else []
    return f"# {report.benchmark}, {report.split}, {report.shots} shots\n\n{table}\n" + "\n\n".join(notes) + "\n"


def _format_rows(report: BenchmarkReport) -> Iterator[list[str]]:
    model, other, comparison = report.model, report.compared_with, report.comparison
    theirs = _merge_rows(other.total, other.categories, other.subjects) if other else {}
    differences = _merge_rows(comparison.total, comparison.categories, comparison.subjects) if comparison else {}
    for title, mine in _merge_rows(model.total, model.categories, model.subjects).items():
        yield _format_row(title, mine, theirs.get(title), differences.get(title))


def _merge_rows(total: T, categories: Mapping[str, T], subjects: Mapping[str, T]) -> dict[str, T]:
    """Merge total, categories and subjects into one mapping, keyed by the row title in the table."""
    return {"**all**": total} | {f"**{name}**": value for name, value in categories.items()} | dict(subjects)


def _format_row(
    title: str, mine: Accuracy, theirs: Accuracy | None, difference: AccuracyDifference | None
) -> list[str]:
    cells = [title, str(mine.questions), f"{100 * mine.accuracy:.2f}"]
    if theirs and difference:
        cells += [f"{100 * theirs.accuracy:.2f}", f"{100 * difference.difference:+.2f}"]
        cells += [f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}", f"{100 * difference.same_letter:.1f}"]
    return cells


def _format_shots_note(model: ModelAccuracy) -> str:
    return (
        f"{model.name}: {model.fewer_shots} questions had fewer examples because more did not fit into its context "
        f"window; the start of {model.cut} of these prompts was cut off."
    )


def _format_answer_lines(answers: Sequence[Mapping[str, Sequence[Answer]]]) -> Iterator[str]:
    """Yield one JSON line per question: the correct letter and the answer of each model."""
    for subject, rows in answers[0].items():
        for place, row in enumerate(rows):
            line = {"subject": subject, "number": place + 1, "right": row.right}
            for field, one in zip(("model", "compared_with"), answers, strict=False):
                given = one[subject][place]
                line[field] = {"letter": given.letter, "log_likelihoods": given.log_likelihoods, "shots": given.shots}
            yield json.dumps(line, ensure_ascii=False) + "\n"
