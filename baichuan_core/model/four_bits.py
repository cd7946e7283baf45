"""NF4 and FP4 quantization; on a CPU, it matches bitsandbytes bit for bit in a fraction of the time."""

from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .float_chunks import iterate_float_chunks

BLOCK_SIZE = 64  # values that share one scale; bitsandbytes' default
MIN_SCALE = np.float32(1e-38)  # bitsandbytes' guard against blocks of zeros


@cache
def import_bitsandbytes_functional() -> Any:
    """Import `bitsandbytes.functional` on first use, because the import searches for kernels and logs missing ones."""
    return import_module("bitsandbytes.functional")


def quantize_to_four_bits(weight: Tensor, quant_type: str, *, double_quantization: bool) -> tuple[Tensor, Any]:
    """Quantize a matrix in blocks of 64 values (Dettmers et al. 2023, arXiv 2305.14314).

    Args:
        weight: Float32, bfloat16 or float16 [out, in]; computed on its device.
        quant_type: "nf4" or "fp4".
        double_quantization: Whether to quantize the scales to 8 bits.

    Returns:
        Codes, uint8 [out * in / 2, 1], and bitsandbytes' `QuantState`, both equal to those of
        `bitsandbytes.functional.quantize_4bit`.
    """
    functional = import_bitsandbytes_functional()
    if weight.device.type != "cpu" or weight.numel() % BLOCK_SIZE:
        codes, state = functional.quantize_4bit(
            weight.contiguous(), blocksize=BLOCK_SIZE, compress_statistics=double_quantization, quant_type=quant_type
        )
        return codes, state
    codes, scales = _quantize_blocks(weight, quant_type)
    nested: dict[str, Any] = {"absmax": scales}
    if double_quantization:
        offset = scales.mean()
        absmax, state2 = functional.quantize_blockwise(scales - offset, blocksize=256)
        nested = {"absmax": absmax, "offset": offset, "state2": state2}
    state = functional.QuantState(
        **nested,
        shape=weight.shape,
        dtype=weight.dtype,
        blocksize=BLOCK_SIZE,
        code=functional.get_4bit_type(quant_type, device="cpu"),
        quant_type=quant_type,
    )
    return codes, state


def keep_scales(state: Any) -> None:
    """Keep the exact scales of a `QuantState`: bitsandbytes rounds them for CPU kernels in the first forward pass.

    The exact scales cannot be recovered from the rounded ones. Keeping them adds 3% to the size of a layer packed for a
    CPU (12% with float32 scales) and nothing to that of an unpacked layer.
    """
    state.kept_scales = (state.absmax, state.offset, state.state2)


def unpack_weight(weight: Any) -> None:
    """Undo bitsandbytes' CPU packing of a 4-bit weight, if it is packed.

    Codes are restored exactly, and so are scales kept by `keep_scales`. If none were kept, bitsandbytes' own inverse
    restores the scales rounded to bfloat16 (and 8-bit scales rounded again to 8 bits). It leaves float32 scales
    transposed, which is corrected here.
    """
    state: Any = getattr(weight, "quant_state", None)
    if not getattr(state, "packing_format_for_cpu", False):
        return
    weight.data, _state = import_bitsandbytes_functional()._convert_weight_packed_for_cpu_inverse(weight.data, state)
    kept = getattr(state, "kept_scales", None)
    if kept is not None:
        state.absmax, state.offset, state.state2 = kept
    elif not state.original_nested:
        state.absmax = state.absmax.T.reshape(-1).float()


def _quantize_blocks(weight: Tensor, quant_type: str) -> tuple[Tensor, Tensor]:
    """Return packed codes [values / 2, 1] and the largest magnitude of each block [values / 64]."""
    bounds, packed_code = _make_code_book_tables(quant_type)
    codes = np.empty(weight.numel() // 2, np.uint8)
    scales = np.empty(weight.numel() // BLOCK_SIZE, np.float32)
    for chunk, values in iterate_float_chunks(weight):
        blocks = values.reshape(-1, BLOCK_SIZE)
        largest = scales[chunk.start // BLOCK_SIZE : chunk.stop // BLOCK_SIZE]
        np.abs(blocks).max(axis=1, out=largest)
        with np.errstate(invalid="ignore"):  # the caller detects NaN and infinity from the relative error
            blocks *= (np.float32(1) / np.maximum(largest, MIN_SCALE))[:, None]
        position = _find_nearest_code_indices(values, bounds)
        packed_code.take((position[::2] << 4) | position[1::2], out=codes[chunk.start // 2 : chunk.stop // 2])
    return torch.from_numpy(codes).unsqueeze(1), torch.from_numpy(scales)


def _find_nearest_code_indices(scaled: NDArray[np.float32], bounds: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Count the bounds below each value; fifteen comparisons without branches are faster than a binary search."""
    position = np.zeros(scaled.size, np.uint8)
    above = np.empty(scaled.size, np.bool_)
    for bound in bounds:
        np.greater(scaled, bound, out=above)
        position += above.view(np.uint8)
    return position


@cache
def _make_code_book_tables(quant_type: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the midpoints between the sorted values of a code book, and a table that maps two positions to a byte."""
    book = import_bitsandbytes_functional().get_4bit_type(quant_type, device="cpu")
    order = torch.argsort(book)
    bounds = ((book[order[:-1]] + book[order[1:]]) / 2).numpy()
    code = order.numpy().astype(np.uint8)
    pairs = np.arange(256)
    return bounds, (code[pairs >> 4] << 4) | code[pairs & 15]
