"""Grouping of prompts into forward passes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from baichuan_core.generation.engines.native.passes import MAX_PREFILL_TOKENS, group_into_passes

lengths_of_rows = st.lists(st.integers(1, 3000), max_size=40)


def cost(groups: list[list[int]], lengths: list[int], pass_overhead: int) -> int:
    return sum(len(group) * max(lengths[i] for i in group) + pass_overhead for group in groups)


@given(lengths_of_rows, st.integers(0, 500))
def test_every_row_is_in_one_group_that_fits_into_a_pass(lengths: list[int], pass_overhead: int) -> None:
    groups = group_into_passes(lengths, pass_overhead=pass_overhead)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= MAX_PREFILL_TOKENS
    assert all(lengths[first[-1]] >= lengths[second[0]] for first, second in pairwise(groups))


@given(st.lists(st.integers(1, 900), min_size=1, max_size=9), st.integers(0, 500))
def test_no_other_grouping_of_the_rows_by_length_costs_less(lengths: list[int], pass_overhead: int) -> None:
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    chosen = cost(group_into_passes(lengths, pass_overhead=pass_overhead), lengths, pass_overhead)
    for cuts in range(2 ** (len(order) - 1)):
        groups = [[order[0]]]
        for place, i in enumerate(order[1:]):
            if cuts >> place & 1:
                groups.append([])
            groups[-1].append(i)
        if all(len(group) == 1 or len(group) * lengths[group[0]] <= MAX_PREFILL_TOKENS for group in groups):
            assert chosen <= cost(groups, lengths, pass_overhead)


def test_only_prompts_of_similar_length_share_a_pass() -> None:
    assert group_into_passes([100, 10, 98, 11], pass_overhead=32) == [[0, 2], [3, 1]]
