"""Metrics of a benchmark evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .answers import Answer
from .benchmarks import Benchmark
from .statistics import (
    Accuracy,
    AccuracyDifference,
    Averaging,
    compute_accuracy,
    compute_accuracy_difference,
    group_by_category,
)

INTERVAL_METHOD = (
    "Accuracy of the model minus that of compared_with, on the same questions; 95% interval of Agresti and Min for "
    "matched pairs (2005), with outcomes weighted like the accuracies."
)


@dataclass(frozen=True, slots=True)
class ModelAccuracy:
    """The accuracies of one model.

    Attributes:
        name: Name of the model.
        total: Accuracy over all subjects.
        categories: Accuracy per category of the benchmark.
        subjects: Accuracy per subject.
        fewer_shots: Number of questions with fewer examples than requested, because more do not fit into the window.
        cut: Number of prompts whose start was cut off because they do not fit even without examples.
    """

    name: str
    total: Accuracy
    categories: Mapping[str, Accuracy]
    subjects: Mapping[str, Accuracy]
    fewer_shots: int
    cut: int


@dataclass(frozen=True, slots=True)
class BenchmarkComparison:
    """Accuracy differences between a model and the one it is compared with."""

    total: AccuracyDifference
    categories: Mapping[str, AccuracyDifference]
    subjects: Mapping[str, AccuracyDifference]
    method: str = INTERVAL_METHOD


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """Result of a benchmark evaluation.

    Attributes:
        benchmark: Title of the benchmark.
        split: The evaluated split.
        shots: Number of examples before each question.
        averaging: Whether category and total accuracies are means over questions or over subjects, as published.
        model: Accuracies of the evaluated model.
        compared_with: Accuracies of the other model, if any.
        comparison: `model` minus `compared_with`, if there are two models.
    """

    benchmark: str
    split: str
    shots: int
    averaging: Averaging
    model: ModelAccuracy
    compared_with: ModelAccuracy | None
    comparison: BenchmarkComparison | None


def build_benchmark_report(
    benchmark: Benchmark, split: str, shots: int, results: Sequence[tuple[str, Mapping[str, Sequence[Answer]]]]
) -> BenchmarkReport:
    """Build the report for one or two models, each given as its name and its answers by subject."""
    models = [_compute_model_accuracy(benchmark, shots, name, answers) for name, answers in results]
    comparison = None
    if len(results) > 1:
        comparison = _compare_models(benchmark, results[0][1], results[1][1])
    other = models[1] if len(models) > 1 else None
    return BenchmarkReport(benchmark.title, split, shots, benchmark.averaging, models[0], other, comparison)


def _compute_model_accuracy(
    benchmark: Benchmark, shots: int, name: str, answers: Mapping[str, Sequence[Answer]]
) -> ModelAccuracy:
    given = [answer for rows in answers.values() for answer in rows]
    return ModelAccuracy(
        name=name,
        total=compute_accuracy(answers, benchmark.averaging),
        categories={
            category: compute_accuracy({subject: answers[subject] for subject in subjects}, benchmark.averaging)
            for category, subjects in group_by_category(benchmark, list(answers)).items()
        },
        subjects={subject: compute_accuracy({subject: rows}, benchmark.averaging) for subject, rows in answers.items()},
        fewer_shots=sum(answer.shots < shots for answer in given),
        cut=sum(answer.cut for answer in given),
    )


def _compare_models(
    benchmark: Benchmark, model: Mapping[str, Sequence[Answer]], other: Mapping[str, Sequence[Answer]]
) -> BenchmarkComparison:
    def compare_subjects(subjects: Sequence[str]) -> AccuracyDifference:
        mine = {subject: model[subject] for subject in subjects}
        theirs = {subject: other[subject] for subject in subjects}
        return compute_accuracy_difference(mine, theirs, benchmark.averaging)

    return BenchmarkComparison(
        total=compare_subjects(list(model)),
        categories={
            category: compare_subjects(subjects)
            for category, subjects in group_by_category(benchmark, list(model)).items()
        },
        subjects={subject: compare_subjects([subject]) for subject in model},
    )
