"""Accuracies are averaged as published, and confidence intervals have the stated coverage."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baichuan_core.evaluation.answers import Answer
from baichuan_core.evaluation.statistics import (
    Averaging,
    compute_accuracy,
    compute_accuracy_difference,
    compute_mean_confidence_interval,
)


def answers(marks: Sequence[bool]) -> list[Answer]:
    return [Answer("A" if right else "B", "A", (0.0, 0.0, 0.0, 0.0), 5, cut=False) for right in marks]


def test_accuracy_averages_over_questions_or_subjects() -> None:
    given_answers = {"large": answers([True] * 6 + [False] * 2), "small": answers([False, True])}
    assert compute_accuracy(given_answers, "questions").accuracy == pytest.approx(7 / 10)
    assert compute_accuracy(given_answers, "subjects").accuracy == pytest.approx((6 / 8 + 1 / 2) / 2)


def test_the_interval_of_matched_pairs_equals_a_manual_calculation() -> None:
    """12 of 100 pairs are gained and 5 lost, so Agresti and Min give 12.5 / 102 - 5.5 / 102."""
    mine, theirs = [True] * 12 + [False] * 5 + [True] * 83, [False] * 12 + [True] * 5 + [True] * 83
    found = compute_accuracy_difference({"s": answers(mine)}, {"s": answers(theirs)}, "questions")
    error = math.sqrt((12.5 / 102 + 5.5 / 102 - (7 / 102) ** 2) / 102)
    assert found.difference == pytest.approx(0.07)
    assert (found.low, found.high) == pytest.approx((7 / 102 - 1.959964 * error, 7 / 102 + 1.959964 * error))
    assert (found.only_model, found.only_other, found.same_letter) == pytest.approx((0.12, 0.05, 0.83))


PAIRS = st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20), min_size=1, max_size=5)


@given(PAIRS, st.sampled_from(["questions", "subjects"]))
def test_the_difference_is_in_its_interval_and_changes_sign_when_models_are_swapped(
    pairs: list[list[tuple[bool, bool]]], averaging: Averaging
) -> None:
    mine, theirs = (
        {str(number): answers([pair[side] for pair in rows]) for number, rows in enumerate(pairs)} for side in (0, 1)
    )
    one, other = (
        compute_accuracy_difference(mine, theirs, averaging),
        compute_accuracy_difference(theirs, mine, averaging),
    )
    assert one.difference == pytest.approx(
        compute_accuracy(mine, averaging).accuracy - compute_accuracy(theirs, averaging).accuracy
    )
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert -1 <= one.low <= one.difference <= one.high <= 1
    assert one.low < one.high


@pytest.mark.parametrize("averaging", ["questions", "subjects"])
def test_the_interval_contains_the_true_difference(averaging: Averaging) -> None:
    """Draw 400 samples of models with a true difference of 0.1, on subjects with 5 to 60 questions."""
    draws, sizes, held = 400, (5, 20, 40, 60), 0
    torch.manual_seed(0)
    for _ in range(draws):
        mine, theirs = {}, {}
        for size in sizes:
            marks = [(draw < 0.55, 0.15 < draw < 0.6) for draw in torch.rand(size).tolist()]
            mine[str(size)] = answers([pair[0] for pair in marks])
            theirs[str(size)] = answers([pair[1] for pair in marks])
        found = compute_accuracy_difference(mine, theirs, averaging)
        held += found.low <= 0.1 <= found.high
    assert 0.92 <= held / draws <= 0.99


def test_the_interval_of_a_mean_contains_the_true_mean() -> None:
    torch.manual_seed(0)
    held = 0
    for _ in range(500):
        sizes = torch.randint(20, 31, [6]).tolist()
        values = torch.normal(2.0, 1.0, [6]).tolist()
        low, high = compute_mean_confidence_interval(
            [size * value for size, value in zip(sizes, values, strict=True)], sizes
        ) or (
            0,
            0,
        )
        held += low <= 2 <= high
    assert 0.92 <= held / 500 <= 0.97


@pytest.mark.parametrize(("blocks", "quantile"), [(4, 3.182), (6, 2.571), (11, 2.228), (31, 2.042)])
def test_the_interval_of_a_mean_uses_students_distribution(blocks: int, quantile: float) -> None:
    sums = [float(number % 3) for number in range(blocks)]
    mean = sum(sums) / blocks
    error = math.sqrt(sum((one - mean) ** 2 for one in sums) / (blocks - 1) / blocks)
    low, high = compute_mean_confidence_interval(sums, [1] * blocks) or (0, 0)
    assert (low + high) / 2 == pytest.approx(mean)
    assert (high - low) / 2 == pytest.approx(quantile * error, rel=0.01)


def test_three_blocks_are_too_few() -> None:
    assert compute_mean_confidence_interval([1.0, 2.0, 3.0], [1, 1, 1]) is None
