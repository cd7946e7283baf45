"""ALiBi (13B): a bias that lowers attention scores in proportion to the distance between query and key.

For few queries, the bias is added to the mask. For many queries, a mask [heads, queries, keys] would be the largest
tensor of the model, so extra columns of queries and keys add the bias through their dot product instead.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

POSITION_STEP = 256  # bfloat16 represents all integers up to 256 exactly
TERMS_PER_SLOPE = 3  # number of bfloat16 values whose sum represents a float32 value
ALIBI_COLUMN_COUNT = 8  # 1 + 2 · TERMS_PER_SLOPE, rounded up because attention kernels require a multiple of 8


class AlibiColumns(NamedTuple):
    """Extra query and key columns, placed before those of each head, whose dot product is the ALiBi bias."""

    query: Tensor  # [1 or batch, heads, queries, 8]
    key: Tensor  # [1 or batch, 1, keys, 8]

    def prepend_to(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [batch, heads, seq, head_dim], each extended by 8 columns.

        The bias columns come first, so that their large terms cancel out before the product of query and key is added.
        If they came last, float32 sums would lose two digits at 4096 tokens.
        """
        batch, heads = query.shape[:2]
        return (
            torch.cat((self.query.expand(batch, -1, -1, -1), query), dim=-1),
            torch.cat((self.key.expand(batch, heads, -1, -1), key), dim=-1),
            pad(value, (0, ALIBI_COLUMN_COUNT)),
        )


def compute_alibi_slopes(heads: int, device: torch.device | None = None) -> Tensor:
    """Compute the slope of every head, float32 [heads] (Press et al. 2021, arXiv 2108.12409).

    If the number of heads is not a power of two, the remaining heads take every second slope of the next power of two.
    """
    power = 2 ** math.floor(math.log2(heads))
    head = torch.arange(heads, dtype=torch.float64, device=device)
    exponents = torch.where(head < power, head + 1, head - power + 0.5)
    return torch.exp2(-8 * exponents / power).float()


def find_query_positions(mask: Tensor) -> Tensor:
    """Return the key index of each query's own position, [batch, queries]: the last key that it sees.

    Args:
        mask: [batch, 1, queries, keys], boolean (True means visible) or additive.
    """
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    from_the_end = visible[:, 0].flip(-1).to(torch.uint8).argmax(dim=-1)
    return mask.shape[-1] - 1 - from_the_end


def add_alibi(mask: Tensor, slopes: Tensor, dtype: torch.dtype) -> Tensor:
    """Add the bias slope · (key - query) to a mask.

    Distances are relative. The published inference code uses absolute positions, which half precision cannot
    distinguish for the last keys of a long text.

    Args:
        mask: [batch, 1, queries, keys], boolean or additive.
        slopes: Float32 [heads].
        dtype: Dtype of the attention scores.

    Returns:
        An additive mask [batch, heads, queries, keys] in `dtype`.
    """
    query_positions = find_query_positions(mask)
    distances = torch.arange(mask.shape[-1], device=mask.device) - query_positions[:, None, :, None]
    bias = slopes[:, None, None] * distances
    lowest = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        return torch.where(mask, bias.to(dtype), lowest)
    return (mask + bias).clamp(min=lowest).to(dtype)


def compute_alibi_columns(
    slopes: Tensor, query_positions: Tensor, keys: int, scaling: float, like: Tensor
) -> AlibiColumns:
    """Compute columns whose dot product, times `scaling`, is slope · (key - query), up to a constant per query.

    Every factor is exact in half precision, so the scores, which kernels sum in float32, contain the bias with the
    precision of float32. Positions are relative to the last query of a row, so that the positions of nearby keys are
    small, and are split into 256 · a + b; slopes are split into sums of three terms.

    Example:
        A key 300 tokens before the last query has position -300 = 256 · (-2) + 212.
        Its columns are 1, then -2 three times, then 212 three times (once for each term of the slope).
        The query's columns are a constant, then the terms of 256 · slope, then those of slope.

    Args:
        slopes: Float32 [heads].
        query_positions: Key index of each query's own position, [1 or batch, queries].
        keys: Number of keys.
        scaling: Factor that the dot product of query and key is multiplied by.
        like: A tensor with the dtype and device of queries and keys.
    """
    last = query_positions.amax(dim=-1, keepdim=True)
    position = torch.arange(keys, device=like.device) - last  # [1 or batch, keys]
    steps = position.div(POSITION_STEP, rounding_mode="floor")
    key = torch.stack(
        (
            torch.ones_like(steps),
            *[steps] * TERMS_PER_SLOPE,
            *[position - POSITION_STEP * steps] * TERMS_PER_SLOPE,
        ),
        dim=-1,
    )
    slope = (slopes.double() / scaling)[:, None]
    # A constant per query does not change the softmax; it only keeps the scores small, so it need not be exact.
    until_last = last - query_positions
    shift = (slope * until_last[:, None]).clamp(max=torch.finfo(like.dtype).max / 2)  # [1 or batch, heads, queries]
    factors = torch.stack(
        (*_split_into_terms(POSITION_STEP * slope, like.dtype), *_split_into_terms(slope, like.dtype)), dim=-1
    )
    query = torch.cat((shift.to(like.dtype)[..., None], factors.expand(*shift.shape, -1)), dim=-1)
    spare = (0, ALIBI_COLUMN_COUNT - key.shape[-1])
    return AlibiColumns(pad(query, spare), pad(key.to(like.dtype), spare)[:, None])


def _split_into_terms(exact: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Split each number into terms of type `dtype` that add up to nearly `exact`, largest first."""
    pieces = []
    for _ in range(TERMS_PER_SLOPE):
        pieces.append(exact.to(dtype))
        exact = exact - pieces[-1]
    return pieces
