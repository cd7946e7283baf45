"""Decoding on a CPU reads little more than each row's own keys."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from baichuan_core.generation.engines.native.attention import (
    MAX_LENGTH_RATIO,
    MIN_WIDE_HEAD_DIM,
    GroupedRowAttention,
    group_rows_by_length,
)
from baichuan_core.model.layers import eager_attention


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_groups_contain_every_row_once_and_waste_little(lengths: list[int]) -> None:
    groups = group_rows_by_length(lengths)
    assert [row for group in groups for row in range(len(lengths))[group.rows]] == list(range(len(lengths)))
    for group in groups:
        own = lengths[group.rows]
        assert group.keys == max(own) <= MAX_LENGTH_RATIO * min(own)
        assert group.equal == (len(set(own)) == 1)


def test_rows_of_one_length_are_one_group() -> None:
    assert len(group_rows_by_length([70] * 24)) == 1


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([8, MIN_WIDE_HEAD_DIM]),
    st.booleans(),
)
def test_attention_by_groups_equals_attention_of_all_rows(
    lengths: list[int], dtype: torch.dtype, width: int, with_bias: bool
) -> None:
    rows, keys = len(lengths), max(lengths)
    generator = torch.Generator().manual_seed(sum(lengths))
    query = torch.randn(rows, 3, 1, width, generator=generator, dtype=dtype)
    key, value = torch.randn(2, rows, 3, keys, width, generator=generator, dtype=dtype)
    mask = (torch.arange(keys) < torch.tensor(lengths)[:, None])[:, None, None]
    if with_bias:
        bias = torch.randn(rows, 3, 1, keys, generator=generator, dtype=dtype)
        mask = torch.where(mask, bias, torch.finfo(dtype).min)
    exact = mask if mask.dtype == torch.bool else mask.double()
    expected, _ = eager_attention(None, query.double(), key.double(), value.double(), exact, width**-0.5)  # type: ignore[arg-type]
    found, _ = GroupedRowAttention(group_rows_by_length(lengths))(None, query, key, value, mask, width**-0.5)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 3e-2)
