"""Attention of one new token a row, on a CPU: no row waits for keys that only a longer one has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

WIDE = 128  # of a head: that of all published models
LIKE = 1.25  # rows side by side are computed together unless one has so many times the keys of another


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Neighbouring rows of like length.

    Attributes:
        rows: Of the batch.
        keys: How many the longest of them has.
        alike: Whether all have so many.
    """

    rows: slice
    keys: int
    alike: bool


def row_groups(lengths: Sequence[int]) -> list[RowGroup]:
    """Groups for rows with so many keys each, in their order."""
    groups: list[RowGroup] = []
    start = 0
    for end in range(1, len(lengths) + 1):
        if end < len(lengths) and max(lengths[start : end + 1]) <= LIKE * min(lengths[start : end + 1]):
            continue
        keys = max(lengths[start:end])
        groups.append(RowGroup(slice(start, end), keys, keys == min(lengths[start:end])))
        start = end
    return groups


@dataclass(frozen=True, slots=True)
class AttentionByGroups:
    """An attention function, as transformers calls it, for one query a row."""

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
        """softmax(q Kᵀ · scaling + mask) V.

        Args:
            query: [rows, heads, 1, head_dim].
            key: [rows, heads, keys, head_dim].
            value: The same.
            attention_mask: [rows, 1 or heads, 1, keys], what is seen or a bias. Without bias a row sees the keys that
                its length says.
            scaling: Of the scores.

        Returns:
            The output [rows, 1, heads, head_dim].
        """
        parts = []
        for group in self.groups:
            rows, known = group.rows, slice(group.keys)
            mask = None if group.alike and attention_mask.dtype == torch.bool else attention_mask[rows, ..., known]
            parts.append(_attended(query[rows], key[rows, :, known], value[rows, :, known], mask, scaling))
        return torch.cat(parts).transpose(1, 2), None


def _attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    if query.dtype == torch.float32 and query.shape[-1] < WIDE:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    # Written out, it is faster with wide heads; the fused kernel even packs keys and values of half precision anew for
    # every call, so that one query takes four times as long.
    scores = (key @ query.transpose(-2, -1)).transpose(-2, -1).float() * scaling  # [rows, heads, 1, keys]
    if mask is not None:
        scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
    return scores.softmax(dim=-1).to(query.dtype) @ value
