"""Adjusts a layer's weight to correct for the errors of the layers before it."""

import torch
from torch import Tensor

from .compensation import add_damping

CORRECTION_FRACTION = 0.5  # fraction of the correction to apply; the full correction overfits the calibration text
DAMPING_FRACTION = 0.05


def correct_weight(weight: Tensor, drift: Tensor, second_moments: Tensor) -> Tensor:
    """Move a weight towards one that maps the current inputs to the outputs of the unquantized model.

    The weight is moved halfway to the least-squares solution, as in Arai and Ichikawa 2025 (arXiv 2504.09629,
    "Quantization Error Propagation").

    Args:
        weight: Float32 [out, in].
        drift: Mean of (output of the unquantized model - weight x) xᵀ over the inputs x, [out, in].
        second_moments: Mean of x xᵀ, [in, in].
    """
    factor = torch.linalg.cholesky(add_damping(second_moments, DAMPING_FRACTION))
    return torch.add(weight, torch.cholesky_solve(drift.T, factor).T, alpha=CORRECTION_FRACTION)
