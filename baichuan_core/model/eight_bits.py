"""8-bit codes with one scale a row."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .float_chunks import CHUNK, float_chunks

LARGEST_CODE = 127


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each row over its largest magnitude, as codes of -127 to 127 (Dettmers et al. 2022, arXiv 2208.07339).

    Args:
        weight: [rows, width] of floats.

    Returns:
        Codes, int8 [rows, width], and largest magnitudes, float32 [rows].
    """
    if weight.device.type == "cpu":
        return _quantize_on_cpu(weight, np.float32)
    exact = weight.detach().float()
    largest = exact.abs().amax(dim=1)
    factors = (LARGEST_CODE / largest).nan_to_num(posinf=0.0)  # rows of zeros
    return (exact * factors[:, None]).round().to(torch.int8), largest


def quantize_rows_in_float16(weight: Tensor) -> tuple[Tensor, Tensor]:
    """What LLM.int8() stores of a matrix: as `quantize_rows`, after the rounding to float16 that it begins with.

    The results equal those of `bitsandbytes.functional.int8_vectorwise_quant`.
    """
    if weight.device.type == "cpu":
        return _quantize_on_cpu(weight, np.float16)
    half = weight.detach().contiguous().to(torch.float16)
    codes, largest, _ = import_module("bitsandbytes.functional").int8_vectorwise_quant(half)
    return codes, largest


def _quantize_on_cpu(weight: Tensor, rounding: type[np.floating[Any]]) -> tuple[Tensor, Tensor]:
    rows, width = weight.shape
    codes: NDArray[np.int8] = np.empty((rows, width), np.int8)
    largest = np.empty(rows, np.float32)
    # NaN and infinity show in the error of the weight; a row of zeros has no factor, and codes of zero.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for place, values in float_chunks(weight, max(CHUNK // width, 1) * width):
            exact = values.astype(rounding, copy=False).astype(np.float32, copy=False).reshape(-1, width)
            part = slice(place.start // width, place.stop // width)
            np.abs(exact).max(axis=1, out=largest[part])
            factors = np.nan_to_num(np.float32(1) / largest[part] * LARGEST_CODE, posinf=0.0)  # as torch divides
            codes[part] = np.rint(exact * factors[:, None])
    return torch.from_numpy(codes), torch.from_numpy(largest)


def restore_rows(codes: Tensor, largest: Tensor) -> Tensor:
    """float32 [rows, width] from the codes and scales of `quantize_rows`."""
    return codes * (largest / LARGEST_CODE)[:, None]
