"""CPU attention for one new token per row, which does not pad short rows to the length of long ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

MIN_WIDE_HEAD_DIM = 128  # head_dim of all published models
MAX_LENGTH_RATIO = 1.25  # maximum ratio between the longest and the shortest row of a group


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Adjacent rows of similar length.

    Attributes:
        rows: The group's rows in the batch.
        keys: Number of keys of the longest row.
        equal: Whether all rows have this number of keys.
    """

    rows: slice
    keys: int
    equal: bool


def group_rows_by_length(lengths: Sequence[int]) -> list[RowGroup]:
    """Group adjacent rows of similar length.

    Example:
        Rows with 100, 110, 124 and 400 keys form two groups:
        rows 0 to 2 with up to 124 keys, since 124 <= 1.25 · 100, and
        row 3 with 400 keys.

    Args:
        lengths: Number of keys of each row.
    """
    groups: list[RowGroup] = []
    start = 0
    for end in range(1, len(lengths) + 1):
        if end < len(lengths) and max(lengths[start : end + 1]) <= MAX_LENGTH_RATIO * min(lengths[start : end + 1]):
            continue
        keys = max(lengths[start:end])
        groups.append(RowGroup(slice(start, end), keys, keys == min(lengths[start:end])))
        start = end
    return groups


@dataclass(frozen=True, slots=True)
class GroupedRowAttention:
    """An attention function with transformers' interface, for one query per row."""

    groups: list[RowGroup]

    def __call__(
        self,
        _module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        scaling: float,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Compute softmax(q Kᵀ · scaling + mask) V.

        Args:
            query: [rows, heads, 1, head_dim].
            key: [rows, heads, keys, head_dim].
            value: [rows, heads, keys, head_dim].
            attention_mask: [rows, 1 or heads, 1, keys], boolean (True means visible) or an additive bias. A boolean
                mask must let each row see exactly the keys up to that row's length.
            scaling: Factor by which the scores are multiplied.

        Returns:
            The output [rows, 1, heads, head_dim], and None for the attention weights.
        """
        parts = []
        for group in self.groups:
            rows, known = group.rows, slice(group.keys)
            mask = None if group.equal and attention_mask.dtype == torch.bool else attention_mask[rows, ..., known]
            parts.append(_compute_attention(query[rows], key[rows, :, known], value[rows, :, known], mask, scaling))
        return torch.cat(parts).transpose(1, 2), None


def _compute_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    if query.dtype == torch.float32 and query.shape[-1] < MIN_WIDE_HEAD_DIM:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    # With wide heads, separate operations are faster than the fused kernel. In half precision the fused kernel also
    # repacks all keys and values on every call, so a single query takes four times as long.
    scores = (key @ query.transpose(-2, -1)).transpose(-2, -1).float() * scaling  # [rows, heads, 1, keys]
    if mask is not None:
        scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
    return scores.softmax(dim=-1).to(query.dtype) @ value
