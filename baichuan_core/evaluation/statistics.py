"""Accuracies per subject and category, and confidence intervals for the difference between two models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from .answers import Answer
from .benchmarks import Benchmark

CONFIDENCE_LEVEL = 0.95
NORMAL_QUANTILE = NormalDist().inv_cdf((1 + CONFIDENCE_LEVEL) / 2)
MIN_BLOCKS_FOR_INTERVAL = 4
Averaging = Literal["questions", "subjects"]
Answers = Mapping[str, Sequence[Answer]]  # by subject


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Fraction of correct answers, over all questions or averaged over subjects, as the benchmark defines it."""

    accuracy: float
    questions: int
    subjects: int


@dataclass(frozen=True, slots=True)
class AccuracyDifference:
    """One model's accuracy minus another's on the same questions.

    Attributes:
        difference: The difference in accuracy.
        low, high: Bounds of the 95% confidence interval of `difference`.
        only_model: Fraction of questions that only the model answers correctly.
        only_other: Fraction of questions that only the other model answers correctly.
        same_letter: Fraction of questions to which both models give the same answer.
    """

    difference: float
    low: float
    high: float
    only_model: float
    only_other: float
    same_letter: float


def group_by_category(benchmark: Benchmark, subjects: Sequence[str]) -> dict[str, list[str]]:
    """Group subjects by category; a subject can belong to several."""
    found: dict[str, list[str]] = {}
    for subject in subjects:
        for category in benchmark.get_subjects()[subject].categories:
            found.setdefault(category, []).append(subject)
    return found


def compute_accuracy(answers: Answers, averaging: Averaging) -> Accuracy:
    """Compute the accuracy over all subjects of `answers`."""
    weights = _compute_weights(answers, averaging)
    rows = [answer for subject in answers for answer in answers[subject]]
    fraction = sum(weight for weight, answer in zip(weights, rows, strict=True) if answer.is_correct)
    return Accuracy(fraction, len(rows), len(answers))


def compute_accuracy_difference(model: Answers, other: Answers, averaging: Averaging) -> AccuracyDifference:
    """Compute the accuracy difference between two models on the same questions.

    The interval is that of Agresti and Min for matched pairs (Statistics in Medicine 24, 2005): Wald's interval with
    half a pair added to each of the four outcomes, so that its width is not zero if the models never differ. If the
    accuracy averages over subjects, outcomes are weighted accordingly, and the number of pairs is Kish's effective
    sample size, 1 / sum(weight^2).
    """
    weights = _compute_weights(model, averaging)
    pairs = [(mine, theirs) for subject in model for mine, theirs in zip(model[subject], other[subject], strict=True)]
    gained = _compute_weighted_fraction(weights, [mine.is_correct and not theirs.is_correct for mine, theirs in pairs])
    lost = _compute_weighted_fraction(weights, [theirs.is_correct and not mine.is_correct for mine, theirs in pairs])
    same = _compute_weighted_fraction(weights, [mine.letter == theirs.letter for mine, theirs in pairs])
    low, high = _compute_agresti_min_interval(gained, lost, 1 / math.fsum(weight * weight for weight in weights))
    return AccuracyDifference(gained - lost, low, high, gained, lost, same)


def compute_mean_confidence_interval(sums: Sequence[float], sizes: Sequence[int]) -> tuple[float, float] | None:
    """Compute a 95% confidence interval for sum(sums) / sum(sizes), assuming that the blocks are independent.

    The interval is that of the ratio estimator, with Student's quantile for `len(sums) - 1` degrees of freedom. The
    result is None for fewer than four blocks, which are too few for a useful interval.
    """
    blocks, total = len(sums), sum(sizes)
    if blocks < MIN_BLOCKS_FOR_INTERVAL:
        return None
    mean = math.fsum(sums) / total
    squares = math.fsum((part - mean * size) ** 2 for part, size in zip(sums, sizes, strict=True))
    error = math.sqrt(squares * blocks / (blocks - 1)) / total
    return mean - _compute_student_quantile(blocks - 1) * error, mean + _compute_student_quantile(blocks - 1) * error


def _compute_weights(answers: Answers, averaging: Averaging) -> list[float]:
    """Return one weight per question, ordered by subject; the weights sum to 1."""
    questions = sum(map(len, answers.values()))
    each = {
        subject: 1 / questions if averaging == "questions" else 1 / (len(answers) * len(rows))
        for subject, rows in answers.items()
    }
    return [each[subject] for subject, rows in answers.items() for _ in rows]


def _compute_weighted_fraction(weights: Sequence[float], chosen: Sequence[bool]) -> float:
    return math.fsum(weight for weight, one in zip(weights, chosen, strict=True) if one)


def _compute_agresti_min_interval(gained: float, lost: float, pairs: float) -> tuple[float, float]:
    more, less = (gained * pairs + 0.5) / (pairs + 2), (lost * pairs + 0.5) / (pairs + 2)
    middle = more - less
    margin = NORMAL_QUANTILE * math.sqrt((more + less - middle * middle) / (pairs + 2))
    return max(-1.0, middle - margin), min(1.0, middle + margin)


def _compute_student_quantile(freedom: int) -> float:
    """Compute a quantile of Student's t-distribution from the normal quantile (Abramowitz and Stegun, 26.7.5)."""
    terms = (
        (NORMAL_QUANTILE**3 + NORMAL_QUANTILE) / 4,
        (5 * NORMAL_QUANTILE**5 + 16 * NORMAL_QUANTILE**3 + 3 * NORMAL_QUANTILE) / 96,
        (3 * NORMAL_QUANTILE**7 + 19 * NORMAL_QUANTILE**5 + 17 * NORMAL_QUANTILE**3 - 15 * NORMAL_QUANTILE) / 384,
    )
    return NORMAL_QUANTILE + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))
