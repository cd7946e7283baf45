"""Transforms the rows of tensors on the way from one file to another."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from baichuan_core.checkpoint.parallel_writer import PlannedTensor
from baichuan_core.errors import CheckpointError
from baichuan_core.model.chunked_loss import MIN_NORM


def cast_tensor(tensor: PlannedTensor, dtype: torch.dtype) -> PlannedTensor:
    """Convert a tensor to another dtype; raise CheckpointError for NaN and for values that do not fit the dtype."""
    if tensor.dtype == dtype:
        return tensor

    def compute_rows(start: int, stop: int) -> Tensor:
        values = tensor.rows(start, stop).to(dtype)
        require_finite(values, tensor.name)
        return values

    return replace(tensor, dtype=dtype, rows=compute_rows)


def normalize_tensor(tensor: PlannedTensor) -> PlannedTensor:
    """Scale the rows of a tensor [vocab, hidden] to L2 norm 1, computed in float32; zero rows stay zero."""
    return replace(tensor, rows=lambda start, stop: normalize_rows(tensor.rows(start, stop)))


def normalize_rows(weight: Tensor) -> Tensor:
    """Scale rows [rows, hidden] to L2 norm 1, computed in float32 and rounded to their dtype; zero rows stay zero."""
    norms = torch.linalg.vector_norm(weight, dim=-1, keepdim=True, dtype=torch.float32)
    quotients: Tensor = weight / norms.clamp(min=MIN_NORM)
    return quotients.to(weight.dtype)


def select_stacked_matrix(tensor: PlannedTensor, name: str, number: int, parts: int) -> PlannedTensor:
    """Select one of several matrices stacked in a tensor, e.g. the queries (0), keys (1) or values (2) of `W_pack`."""
    length = tensor.shape[0] // parts
    begin = number * length

    def compute_rows(start: int, stop: int) -> Tensor:
        return tensor.rows(begin + start, begin + stop)

    return replace(tensor, name=name, shape=(length, *tensor.shape[1:]), rows=compute_rows)


def require_finite(values: Tensor, name: str) -> None:
    """Check that no value is NaN or infinite.

    Raises:
        CheckpointError: A value is NaN or infinite; the message names the tensor.
    """
    # If any value is NaN, so are the minimum and maximum; checking only these takes a tenth of the time.
    if not all(math.isfinite(extreme) for extreme in torch.aminmax(values)):
        raise CheckpointError(
            f"{name} has values that are NaN, infinite or too large for {str(values.dtype).removeprefix('torch.')}: "
            "choose a type with a wider range (bf16), or use an earlier, undamaged checkpoint"
        )
