"""8-bit codes with one scale a row."""

from importlib import import_module

import torch
from torch import Tensor

LARGEST_CODE = 127
CACHED_VALUES = 2**18  # worked on at a time, so that a core's cache holds them


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each row over its largest magnitude, as codes of -127 to 127 (Dettmers et al. 2022, arXiv 2208.07339).

    Args:
        weight: [rows, width] of floats.

    Returns:
        Codes, int8 [rows, width], and largest magnitudes, float32 [rows].
    """
    return _quantize_rows(weight, torch.float32)


def quantize_rows_in_float16(weight: Tensor) -> tuple[Tensor, Tensor]:
    """What LLM.int8() stores of a matrix: as `quantize_rows`, after the rounding to float16 that it begins with.

    The results equal those of `bitsandbytes.functional.int8_vectorwise_quant`.
    """
    if weight.device.type == "cpu":
        return _quantize_rows(weight, torch.float16)
    half = weight.detach().contiguous().to(torch.float16)
    codes, largest, _ = import_module("bitsandbytes.functional").int8_vectorwise_quant(half)
    return codes, largest


def _quantize_rows(weight: Tensor, rounding: torch.dtype) -> tuple[Tensor, Tensor]:
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    largest = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    step = max(CACHED_VALUES // weight.shape[1], 1) if weight.device.type == "cpu" else len(weight)
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        exact = weight[rows].detach().to(rounding).float()
        largest[rows] = exact.abs().amax(dim=1)
        factors = (LARGEST_CODE / largest[rows]).nan_to_num_(posinf=0.0)  # rows of zeros
        codes[rows] = exact.mul(factors[:, None]).round_().to(torch.int8)
    return codes, largest


def restore_rows(codes: Tensor, largest: Tensor) -> Tensor:
    """float32 [rows, width] from the codes and scales of `quantize_rows`."""
    return codes * (largest / LARGEST_CODE)[:, None]
