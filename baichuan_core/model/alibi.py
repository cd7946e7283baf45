"""ALiBi (13B): a bias on attention scores that grows with the distance between query and key.

For a few queries the bias is added to the mask. For more of them a mask of [heads, queries, keys] would be the largest
tensor of the model, so the bias becomes part of the scalar product of query and key instead.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

STEP = 256  # every whole number up to it is exact in bfloat16
PIECES = 3  # numbers in bfloat16 whose sum is exact in float32
COLUMNS = 8  # 1 + 2 · PIECES, up to what attention kernels want a head to be a multiple of


class AlibiColumns(NamedTuple):
    """What is put before the dimensions of a head so that the scalar product of query and key has the bias in it."""

    query: Tensor  # [1 or batch, heads, queries, 8]
    key: Tensor  # [1 or batch, 1, keys, 8]

    def put_before(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [batch, heads, seq, head_dim], each with 8 dimensions more.

        The bias comes first, where its large terms cancel before the product of query and key is added to them:
        behind it, float32 loses two digits at 4096 tokens.
        """
        batch, heads = query.shape[:2]
        return (
            torch.cat((self.query.expand(batch, -1, -1, -1), query), dim=-1),
            torch.cat((self.key.expand(batch, heads, -1, -1), key), dim=-1),
            pad(value, (0, COLUMNS)),
        )


def alibi_slopes(heads: int, device: torch.device | None = None) -> Tensor:
    """Slope of every head, float32 [heads] (Press et al. 2021, arXiv 2108.12409).

    A number of heads that is no power of two takes every second slope of the next power for the rest.
    """
    power = 2 ** math.floor(math.log2(heads))
    head = torch.arange(heads, dtype=torch.float64, device=device)
    exponents = torch.where(head < power, head + 1, head - power + 0.5)
    return torch.exp2(-8 * exponents / power).float()


def standing_positions(mask: Tensor) -> Tensor:
    """The key index where each query stands, [batch, queries]: the last key that it sees.

    Args:
        mask: [batch, 1, queries, keys], boolean (True is seen) or additive.
    """
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    from_the_end = visible[:, 0].flip(-1).to(torch.uint8).argmax(dim=-1)
    return mask.shape[-1] - 1 - from_the_end


def add_alibi(mask: Tensor, slopes: Tensor, dtype: torch.dtype) -> Tensor:
    """Put the bias slope · (key - query) into a mask.

    Distances are relative, unlike in the published inference code, whose absolute positions lose their last keys in
    half precision.

    Args:
        mask: [batch, 1, queries, keys], boolean or additive.
        slopes: Float32 [heads].
        dtype: That of the scores.

    Returns:
        An additive mask [batch, heads, queries, keys] in `dtype`.
    """
    standing = standing_positions(mask)
    distances = torch.arange(mask.shape[-1], device=mask.device) - standing[:, None, :, None]
    bias = slopes[:, None, None] * distances
    lowest = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        return torch.where(mask, bias.to(dtype), lowest)
    return (mask + bias).clamp(min=lowest).to(dtype)


def alibi_columns(slopes: Tensor, standing: Tensor, keys: int, scaling: float, like: Tensor) -> AlibiColumns:
    """Columns whose scalar product, times `scaling`, is slope · (key - query), up to a constant for each query.

    Positions count from the last query of a row, so that the keys that matter are small numbers, and are written
    as 256 · a + b; slopes are sums of pieces. So every factor is exact in half precision, and scores, which
    kernels sum in float32, have the bias to float32.

    Args:
        slopes: Float32 [heads].
        standing: Key index where each query stands, [1 or batch, queries].
        keys: How many there are.
        scaling: What the scalar product of query and key is multiplied with.
        like: A tensor with the dtype and device of queries and keys.
    """
    last = standing.amax(dim=-1, keepdim=True)
    position = torch.arange(keys, device=like.device) - last  # [1 or batch, keys]
    steps = position.div(STEP, rounding_mode="floor")
    key = torch.stack((torch.ones_like(steps), *[steps] * PIECES, *[position - STEP * steps] * PIECES), dim=-1)
    slope = (slopes.double() / scaling)[:, None]
    # A constant of the query, which softmax does not see; it keeps sums small on their way, so it need not be exact.
    shift = (slope * (last - standing)[:, None]).clamp(max=torch.finfo(like.dtype).max / 2)  # [.., heads, queries]
    factors = torch.stack((*_pieces(STEP * slope, like.dtype), *_pieces(slope, like.dtype)), dim=-1)
    query = torch.cat((shift.to(like.dtype)[..., None], factors.expand(*shift.shape, -1)), dim=-1)
    spare = (0, COLUMNS - key.shape[-1])
    return AlibiColumns(pad(query, spare), pad(key.to(like.dtype), spare)[:, None])


def _pieces(exact: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Numbers in `dtype` whose sum is nearly `exact`, the largest first."""
    pieces = []
    for _ in range(PIECES):
        pieces.append(exact.to(dtype))
        exact = exact - pieces[-1]
    return pieces
