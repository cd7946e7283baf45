"""What a layer can do about the errors of the layers before it."""

import torch
from torch import Tensor

from .compensation import damped

SHARE = 0.5  # of the correction; the whole of it is fitted to the calibration text
DAMPING = 0.05


def corrected(weight: Tensor, drift: Tensor, second_moments: Tensor) -> Tensor:
    """The weight whose outputs on the inputs as they are now lie nearer to those on the inputs as they should be.

    A part of the way to the least squares solution, as in Arai and Ichikawa 2025 (arXiv 2504.09629, "Quantization
    Error Propagation").

    Args:
        weight: Float32 [out, in].
        drift: Mean of (wanted output - weight x) xᵀ over the inputs x, [out, in].
        second_moments: Mean of x xᵀ, [in, in].
    """
    factor = torch.linalg.cholesky(damped(second_moments, DAMPING))
    return torch.add(weight, torch.cholesky_solve(drift.T, factor).T, alpha=SHARE)
