"""The figures of an evaluation on a benchmark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .answers import Answer
from .benchmarks import Benchmark
from .statistics import Accuracy, Averaging, Difference, accuracy, difference, groups

METHOD = (
    "Accuracy of the model less that of compared_with, on the same questions; 95% interval of Agresti and Min for "
    "matched pairs (2005), with outcomes weighted as the accuracies are."
)


@dataclass(frozen=True, slots=True)
class ModelAccuracy:
    """How one model did.

    Attributes:
        name: The model.
        total: Over all subjects.
        categories: By the benchmark's categories.
        subjects: By subject.
        fewer_shots: Questions asked with fewer examples, for more would not fit into the model's window.
        cut: Questions that do not fit even without examples, and lost their beginning.
    """

    name: str
    total: Accuracy
    categories: Mapping[str, Accuracy]
    subjects: Mapping[str, Accuracy]
    fewer_shots: int
    cut: int


@dataclass(frozen=True, slots=True)
class BenchmarkComparison:
    """How far a model is from the one it was compared with."""

    total: Difference
    categories: Mapping[str, Difference]
    subjects: Mapping[str, Difference]
    method: str = METHOD


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """What came of an evaluation.

    Attributes:
        benchmark: Title of the benchmark.
        split: Which questions were asked.
        shots: Examples before each.
        averaging: What categories and total are means of, as the benchmark's publishers report them.
        model: The model that was evaluated.
        compared_with: The other one.
        comparison: The first less the second.
    """

    benchmark: str
    split: str
    shots: int
    averaging: Averaging
    model: ModelAccuracy
    compared_with: ModelAccuracy | None
    comparison: BenchmarkComparison | None


def benchmark_report(
    benchmark: Benchmark, split: str, shots: int, results: Sequence[tuple[str, Mapping[str, Sequence[Answer]]]]
) -> BenchmarkReport:
    """The report on one or two models, each a name and its answers by subject."""
    models = [_model_accuracy(benchmark, shots, name, answers) for name, answers in results]
    comparison = None
    if len(results) > 1:
        comparison = _comparison(benchmark, results[0][1], results[1][1])
    other = models[1] if len(models) > 1 else None
    return BenchmarkReport(benchmark.title, split, shots, benchmark.averaging, models[0], other, comparison)


def _model_accuracy(
    benchmark: Benchmark, shots: int, name: str, answers: Mapping[str, Sequence[Answer]]
) -> ModelAccuracy:
    given = [answer for rows in answers.values() for answer in rows]
    return ModelAccuracy(
        name=name,
        total=accuracy(answers, benchmark.averaging),
        categories={
            category: accuracy({subject: answers[subject] for subject in subjects}, benchmark.averaging)
            for category, subjects in groups(benchmark, list(answers)).items()
        },
        subjects={subject: accuracy({subject: rows}, benchmark.averaging) for subject, rows in answers.items()},
        fewer_shots=sum(answer.shots < shots for answer in given),
        cut=sum(answer.cut for answer in given),
    )


def _comparison(
    benchmark: Benchmark, model: Mapping[str, Sequence[Answer]], other: Mapping[str, Sequence[Answer]]
) -> BenchmarkComparison:
    def compare(subjects: Sequence[str]) -> Difference:
        mine = {subject: model[subject] for subject in subjects}
        theirs = {subject: other[subject] for subject in subjects}
        return difference(mine, theirs, benchmark.averaging)

    return BenchmarkComparison(
        total=compare(list(model)),
        categories={category: compare(subjects) for category, subjects in groups(benchmark, list(model)).items()},
        subjects={subject: compare([subject]) for subject in model},
    )
