"""Accuracies of subjects, categories and the whole, and intervals for the difference of two models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from .answers import Answer
from .benchmarks import Benchmark

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
FEWEST_BLOCKS = 4
Averaging = Literal["questions", "subjects"]
Answers = Mapping[str, Sequence[Answer]]  # by subject


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of right answers: of all questions, or the mean of the subjects' shares, as the benchmark reports it."""

    accuracy: float
    questions: int
    subjects: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One model's accuracy less another's on the same questions.

    Attributes:
        difference: The difference.
        low, high: Its 95% confidence interval.
        only_model: Share of the questions that only the model answers right.
        only_other: Share that only the other one does.
        same_letter: Share to which both give the same letter.
    """

    difference: float
    low: float
    high: float
    only_model: float
    only_other: float
    same_letter: float


def groups(benchmark: Benchmark, subjects: Sequence[str]) -> dict[str, list[str]]:
    """The categories of these subjects, with those that belong to each."""
    found: dict[str, list[str]] = {}
    for subject in subjects:
        for category in benchmark.subjects()[subject].categories:
            found.setdefault(category, []).append(subject)
    return found


def accuracy(answers: Answers, averaging: Averaging) -> Accuracy:
    """The accuracy over all subjects of `answers`."""
    weights = _weights(answers, averaging)
    rows = [answer for subject in answers for answer in answers[subject]]
    share = sum(weight for weight, answer in zip(weights, rows, strict=True) if answer.correct)
    return Accuracy(share, len(rows), len(answers))


def difference(model: Answers, other: Answers, averaging: Averaging) -> Difference:
    """Compare two models on the same questions.

    The interval is that of Agresti and Min for matched pairs (Statistics in Medicine 24, 2005): Wald's with half a
    pair added to each of the four outcomes, so that it has a width when the models never differ. Where subjects count
    alike and not questions, outcomes are weighted so, and their number is Kish's effective one, 1 / sum(weight^2).
    """
    weights = _weights(model, averaging)
    pairs = [(mine, theirs) for subject in model for mine, theirs in zip(model[subject], other[subject], strict=True)]
    gained = _share(weights, [mine.correct and not theirs.correct for mine, theirs in pairs])
    lost = _share(weights, [theirs.correct and not mine.correct for mine, theirs in pairs])
    same = _share(weights, [mine.letter == theirs.letter for mine, theirs in pairs])
    low, high = _agresti_min(gained, lost, 1 / math.fsum(weight * weight for weight in weights))
    return Difference(gained - lost, low, high, gained, lost, same)


def mean_interval(sums: Sequence[float], sizes: Sequence[int]) -> tuple[float, float] | None:
    """95% confidence interval of sum(sums) / sum(sizes), from blocks that are taken to be independent.

    That of the ratio estimator, with Student's quantile for one degree of freedom less than blocks; None below four
    blocks, which say too little.
    """
    blocks, total = len(sums), sum(sizes)
    if blocks < FEWEST_BLOCKS:
        return None
    mean = math.fsum(sums) / total
    squares = math.fsum((part - mean * size) ** 2 for part, size in zip(sums, sizes, strict=True))
    error = math.sqrt(squares * blocks / (blocks - 1)) / total
    return mean - _student(blocks - 1) * error, mean + _student(blocks - 1) * error


def _weights(answers: Answers, averaging: Averaging) -> list[float]:
    """A weight for each question, subject after subject; they add up to 1."""
    questions = sum(map(len, answers.values()))
    each = {
        subject: 1 / questions if averaging == "questions" else 1 / (len(answers) * len(rows))
        for subject, rows in answers.items()
    }
    return [each[subject] for subject, rows in answers.items() for _ in rows]


def _share(weights: Sequence[float], chosen: Sequence[bool]) -> float:
    return math.fsum(weight for weight, one in zip(weights, chosen, strict=True) if one)


def _agresti_min(gained: float, lost: float, pairs: float) -> tuple[float, float]:
    more, less = (gained * pairs + 0.5) / (pairs + 2), (lost * pairs + 0.5) / (pairs + 2)
    middle = more - less
    margin = Z * math.sqrt((more + less - middle * middle) / (pairs + 2))
    return max(-1.0, middle - margin), min(1.0, middle + margin)


def _student(freedom: int) -> float:
    """Quantile of Student's distribution by its expansion about the normal one (Abramowitz and Stegun, 26.7.5)."""
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
    )
    return Z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))
