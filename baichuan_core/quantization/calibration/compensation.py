"""GPTQ with a code book of sixteen values: later columns compensate for the rounding errors of earlier ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.model.four_bits import BLOCK_SIZE

from .code_book import BlockScales, CodeBook, quantize_scales

# Columns per group. The rest of a group is updated after each of its columns, all later columns once per group.
COLUMNS_PER_UPDATE = 128
# Candidate scales, as fractions of the block's largest magnitude; a smaller scale clips outliers but rounds
# all other values more finely.
CANDIDATE_SCALES = tuple(0.7 + step / 30 for step in range(13))
# Damping as a fraction of the diagonal's mean. With 0.01 (Frantar et al.), the KL divergence on other kinds of text is
# a quarter higher.
DAMPING_FRACTION = 0.1
MIN_DAMPING = 1e-20  # keeps the matrix invertible for a layer whose inputs are all zero


@dataclass(frozen=True, slots=True)
class CalibratedWeight:
    """A weight [out, in], quantized to 4 bits.

    Attributes:
        positions: Indices into the ascending values of the code book, uint8 [out, in].
        scales: Scales of the blocks.
        dequantized: The dequantized weight, float32 [out, in].
    """

    positions: Tensor
    scales: BlockScales
    dequantized: Tensor


def quantize_with_compensation(
    weight: Tensor, second_moments: Tensor, book: CodeBook, scale_offset: Tensor | None
) -> CalibratedWeight:
    """Quantize a matrix so that its outputs on the calibration inputs, rather than its values, change little.

    GPTQ (Frantar et al. 2022, arXiv 2210.17323) rounds one column at a time, those with the largest inputs
    first, and adjusts the remaining columns to compensate for the error of each. Scales are chosen and quantized
    first, so that columns are rounded with the scales that a loaded checkpoint will have.

    Args:
        weight: Float32 [out, in].
        second_moments: Mean of x xᵀ over the inputs x, float32 [in, in].
        book: The code book.
        scale_offset: Value that double quantization subtracts from scales; None without double quantization.
    """
    order = second_moments.diagonal().argsort(descending=True, stable=True)
    factor = compute_inverse_cholesky_factor(second_moments, order)
    importance = torch.empty_like(factor.diagonal())
    importance[order] = factor.diagonal().square().reciprocal()
    found = search_scales(weight, importance, book)
    scales = BlockScales(found) if scale_offset is None else quantize_scales(found, scale_offset)
    positions, dequantized = _round_columns(weight, scales.dequantized, factor, order, book)
    return CalibratedWeight(positions, scales, dequantized)


def add_damping(second_moments: Tensor, fraction: float = DAMPING_FRACTION) -> Tensor:
    """Return second moments [in, in] with a fraction of the diagonal's mean added to the diagonal."""
    result = second_moments.clone()
    diagonal = result.diagonal()
    diagonal += fraction * diagonal.mean().clamp(min=MIN_DAMPING)
    return result


def compute_inverse_cholesky_factor(second_moments: Tensor, order: Tensor) -> Tensor:
    """Return the upper Cholesky factor [in, in] of the inverse of the damped and reordered second moments."""
    matrix = add_damping(second_moments)[order[:, None], order]
    # Reusing the name frees each input before the next step; these are the largest matrices of a calibration.
    matrix = torch.linalg.cholesky(matrix)
    matrix = torch.cholesky_inverse(matrix)
    factor: Tensor = torch.linalg.cholesky(matrix, upper=True)
    return factor


def search_scales(weight: Tensor, importance: Tensor, book: CodeBook) -> Tensor:
    """Find the scale of each block of 64 values that minimizes the weighted squared error.

    Args:
        weight: [out, in].
        importance: Cost of an error of 1 in each column after the other columns compensate for it, [in].
        book: The code book.

    Returns:
        Float32 [out, in / 64].
    """
    blocks = weight.unflatten(1, (-1, BLOCK_SIZE))
    costs = importance.reshape(1, -1, BLOCK_SIZE)
    largest = blocks.abs().amax(dim=-1).clamp(min=torch.finfo(weight.dtype).tiny)
    best = torch.full_like(largest, torch.inf)
    scales: Tensor = largest.clone()
    for candidate in CANDIDATE_SCALES:
        tried = largest * candidate
        errors = (
            book.round_approximately(blocks / tried[..., None])
            .mul_(tried[..., None])
            .sub_(blocks)
            .square_()
            .mul_(costs)
        )
        error = errors.sum(dim=-1)
        scales = torch.where(error < best, tried, scales)
        best = torch.minimum(error, best)
    return scales


def _round_columns(
    weight: Tensor, scales: Tensor, factor: Tensor, order: Tensor, book: CodeBook
) -> tuple[Tensor, Tensor]:
    """Round all columns; return positions in the code book and dequantized values, both [out, in]."""
    # Transposed so that each column is contiguous.
    remaining, scale_of = weight.T[order], scales.T[order // BLOCK_SIZE]
    positions = torch.empty(remaining.shape, dtype=torch.uint8, device=weight.device)
    dequantized = torch.empty_like(remaining)
    places = order.tolist()
    for start in range(0, len(remaining), COLUMNS_PER_UPDATE):
        stop = min(start + COLUMNS_PER_UPDATE, len(remaining))
        errors = torch.empty_like(remaining[start:stop])
        for column in range(start, stop):
            value, scale, place = remaining[column], scale_of[column], places[column]
            nearest = book.find_nearest(value / scale)
            positions[place] = nearest
            dequantized[place] = book.values[nearest] * scale
            errors[column - start] = error = (value - dequantized[place]) / factor[column, column]
            remaining[column + 1 : stop] -= torch.outer(factor[column, column + 1 : stop], error)
        remaining[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return positions.T, dequantized.T
