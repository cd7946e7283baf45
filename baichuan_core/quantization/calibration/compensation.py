"""Codes that make up for each other's errors: GPTQ over a code book of sixteen values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.model.four_bits import BLOCK

from .code_book import CodeBook, Scales, nest

COLUMNS_AT_ONCE = 128  # updated one by one; what comes after them is updated once for all
# Of a block's largest magnitude: what a scale may be. Outliers are clipped where that makes the rest finer.
CANDIDATES = tuple(0.7 + step / 30 for step in range(13))
# Of the mean of the diagonal. Frantar et al. have 0.01, which on text of another kind costs a quarter more KL.
DAMPING = 0.1
SMALLEST = 1e-20  # for a layer whose inputs are all zero


@dataclass(frozen=True, slots=True)
class CalibratedWeight:
    """A weight [out, in] in 4 bits.

    Attributes:
        positions: Index into the rising values of the code book, uint8 [out, in].
        scales: Of its blocks.
        restored: What the layer computes with, float32 [out, in].
    """

    positions: Tensor
    scales: Scales
    restored: Tensor


def compensate(weight: Tensor, second_moments: Tensor, book: CodeBook, nest_offset: Tensor | None) -> CalibratedWeight:
    """Quantize a matrix so that its outputs on the calibration inputs, rather than its values, stay near.

    GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one after the other, those with the largest
    inputs first, and the others make up for the error of each. Scales are fixed before, in the form in which they
    will be read.

    Args:
        weight: Float32 [out, in].
        second_moments: Mean of x xᵀ over the inputs x, float32 [in, in].
        book: The code book.
        nest_offset: What double quantization subtracts from scales; None where scales stay as they are.
    """
    order = second_moments.diagonal().argsort(descending=True, stable=True)
    factor = inverse_factor(second_moments, order)
    importance = torch.empty_like(factor.diagonal())
    importance[order] = factor.diagonal().square().reciprocal()
    found = search_scales(weight, importance, book)
    scales = Scales(found) if nest_offset is None else nest(found, nest_offset)
    positions, restored = _round_columns(weight, scales.restored, factor, order, book)
    return CalibratedWeight(positions, scales, restored)


def damped(second_moments: Tensor, share: float = DAMPING) -> Tensor:
    """Second moments [in, in] with a share of the mean of their diagonal added to it."""
    result = second_moments.clone()
    diagonal = result.diagonal()
    diagonal += share * diagonal.mean().clamp(min=SMALLEST)
    return result


def inverse_factor(second_moments: Tensor, order: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse of damped second moments in another order, [in, in]."""
    matrix = damped(second_moments)[order[:, None], order]
    # Under one name, so that no matrix outlives its use: they are the largest that a calibration holds.
    matrix = torch.linalg.cholesky(matrix)
    matrix = torch.cholesky_inverse(matrix)
    factor: Tensor = torch.linalg.cholesky(matrix, upper=True)
    return factor


def search_scales(weight: Tensor, importance: Tensor, book: CodeBook) -> Tensor:
    """The scale of each block of 64 values with the least weighted squared error.

    Args:
        weight: [out, in].
        importance: What an error of 1 in each column costs after the others have made up for it, [in].
        book: The code book.

    Returns:
        Float32 [out, in / 64].
    """
    blocks = weight.unflatten(1, (-1, BLOCK))
    costs = importance.reshape(1, -1, BLOCK)
    largest = blocks.abs().amax(dim=-1).clamp(min=torch.finfo(weight.dtype).tiny)
    best = torch.full_like(largest, torch.inf)
    scales: Tensor = largest.clone()
    for candidate in CANDIDATES:
        tried = largest * candidate
        errors = book.nearly(blocks / tried[..., None]).mul_(tried[..., None]).sub_(blocks).square_().mul_(costs)
        error = errors.sum(dim=-1)
        scales = torch.where(error < best, tried, scales)
        best = torch.minimum(error, best)
    return scales


def _round_columns(
    weight: Tensor, scales: Tensor, factor: Tensor, order: Tensor, book: CodeBook
) -> tuple[Tensor, Tensor]:
    """Positions in the code book and restored values, both [out, in]."""
    # Transposed, so that a column is contiguous.
    remaining, scale_of = weight.T[order], scales.T[order // BLOCK]
    positions = torch.empty(remaining.shape, dtype=torch.uint8, device=weight.device)
    restored = torch.empty_like(remaining)
    places = order.tolist()
    for start in range(0, len(remaining), COLUMNS_AT_ONCE):
        stop = min(start + COLUMNS_AT_ONCE, len(remaining))
        errors = torch.empty_like(remaining[start:stop])
        for column in range(start, stop):
            value, scale, place = remaining[column], scale_of[column], places[column]
            nearest = book.positions(value / scale)
            positions[place] = nearest
            restored[place] = book.values[nearest] * scale
            errors[column - start] = error = (value - restored[place]) / factor[column, column]
            remaining[column + 1 : stop] -= torch.outer(factor[column, column + 1 : stop], error)
        remaining[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return positions.T, restored.T
