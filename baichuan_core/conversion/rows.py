"""What can be done to the rows of a tensor on their way from one file to another."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from baichuan_core.checkpoint.parallel_writer import PlannedTensor
from baichuan_core.errors import CheckpointError
from baichuan_core.model.chunked_loss import MIN_NORM


def cast(tensor: PlannedTensor, dtype: torch.dtype) -> PlannedTensor:
    """The same numbers in another dtype; one that it cannot hold is an error, as is NaN."""
    if tensor.dtype == dtype:
        return tensor

    def rows(start: int, stop: int) -> Tensor:
        numbers = tensor.rows(start, stop).to(dtype)
        require_finite(numbers, tensor.name)
        return numbers

    return replace(tensor, dtype=dtype, rows=rows)


def normalised(tensor: PlannedTensor) -> PlannedTensor:
    """Rows of [vocab, hidden] at L2 norm 1, computed in float32; zero rows stay zero."""
    return replace(tensor, rows=lambda start, stop: normalise_rows(tensor.rows(start, stop)))


def normalise_rows(weight: Tensor) -> Tensor:
    """Rows of [rows, hidden] at L2 norm 1, computed in float32, in the dtype of `weight`; zero rows stay zero."""
    norms = torch.linalg.vector_norm(weight, dim=-1, keepdim=True, dtype=torch.float32)
    quotients: Tensor = weight / norms.clamp(min=MIN_NORM)
    return quotients.to(weight.dtype)


def part(tensor: PlannedTensor, name: str, number: int, parts: int) -> PlannedTensor:
    """One of equally many rows: of `W_pack`, the queries (0), keys (1) or values (2) of three."""
    length = tensor.shape[0] // parts
    begin = number * length

    def rows(start: int, stop: int) -> Tensor:
        return tensor.rows(begin + start, begin + stop)

    return replace(tensor, name=name, shape=(length, *tensor.shape[1:]), rows=rows)


def require_finite(numbers: Tensor, name: str) -> None:
    """Refuse NaN and what has become infinite.

    Raises:
        CheckpointError: The message names the tensor.
    """
    # Both are NaN where one number is, and cost a tenth of asking each.
    if not all(math.isfinite(extreme) for extreme in torch.aminmax(numbers)):
        raise CheckpointError(
            f"{name} holds numbers that are NaN, infinite or too large for {str(numbers.dtype).removeprefix('torch.')}:"
            " choose a type of a wider range (bf16), or use the checkpoint as it was before they came in"
        )
