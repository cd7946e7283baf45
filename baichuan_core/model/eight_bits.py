"""Quantizes matrices to 8-bit codes with one scale per row."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .float_chunks import VALUES_PER_CHUNK, iterate_float_chunks

MAX_CODE = 127


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize each row to codes from -127 to 127, so that its largest magnitude becomes 127.

    This is the vector-wise quantization of Dettmers et al. 2022 (arXiv 2208.07339).

    Args:
        weight: Floats [rows, width].

    Returns:
        Codes, int8 [rows, width], and the largest magnitude of each row, float32 [rows].
    """
    if weight.device.type == "cpu":
        return _quantize_on_cpu(weight, np.float32)
    exact = weight.detach().float()
    largest = exact.abs().amax(dim=1)
    factors = (MAX_CODE / largest).nan_to_num(posinf=0.0)  # the factor is infinite for rows of zeros
    return (exact * factors[:, None]).round().to(torch.int8), largest


def quantize_rows_in_float16(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize a matrix as LLM.int8() does: `quantize_rows` after rounding to float16.

    Results are equal to those of `bitsandbytes.functional.int8_vectorwise_quant`.
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
    # The caller detects NaN and infinity from the relative error; rows of zeros divide by zero and get zero codes.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for chunk, values in iterate_float_chunks(weight, max(VALUES_PER_CHUNK // width, 1) * width):
            exact = values.astype(rounding, copy=False).astype(np.float32, copy=False).reshape(-1, width)
            part = slice(chunk.start // width, chunk.stop // width)
            np.abs(exact).max(axis=1, out=largest[part])
            factors = np.nan_to_num(np.float32(1) / largest[part] * MAX_CODE, posinf=0.0)  # same rounding as torch
            codes[part] = np.rint(exact * factors[:, None])
    return torch.from_numpy(codes), torch.from_numpy(largest)


def dequantize_rows(codes: Tensor, largest: Tensor) -> Tensor:
    """Dequantize the codes and largest magnitudes of `quantize_rows` to float32 [rows, width]."""
    return codes * (largest / MAX_CODE)[:, None]
