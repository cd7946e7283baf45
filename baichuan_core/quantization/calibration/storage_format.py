"""Converts a calibrated weight to the tensors that bitsandbytes and transformers load.

The tensors have the same names and sizes as without calibration.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.model.four_bits import BLOCK_SIZE, import_bitsandbytes_functional
from baichuan_core.model.quantization import QuantizationMethod

from .code_book import SCALES_PER_GROUP, CodeBook, get_scale_code_book
from .compensation import CalibratedWeight


@dataclass(frozen=True, slots=True)
class FourBitFormat:
    """A 4-bit format: "nf4" or "fp4", and whether scales are stored in 8 bits."""

    method: QuantizationMethod
    double_quantization: bool


def compute_scale_offset(weight: Tensor) -> Tensor:
    """Return the value that double quantization subtracts from the scales of a weight [out, in].

    This is the mean scale of uncalibrated quantization. The checkpoint stores it in decimal digits, so a different
    value could change the size of the file.
    """
    return weight.cpu().reshape(-1, BLOCK_SIZE).abs().amax(dim=1).mean().to(weight.device)


def build_stored_tensors(
    result: CalibratedWeight, book: CodeBook, offset: Tensor | None, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the tensors to store, on the CPU, keyed by the suffix after the layer's name, as in `quantize_weight`.

    Args:
        result: The calibrated weight.
        book: The code book.
        offset: The offset of double quantization; None without double quantization.
        dtype: Dtype of the weight before quantization.
    """
    functional, scales = import_bitsandbytes_functional(), result.scales
    nested: dict[str, object] = {"absmax": scales.dequantized.reshape(-1).cpu()}
    if offset is not None and scales.codes is not None and scales.largest is not None:
        state = functional.QuantState(
            absmax=scales.largest.cpu(),
            code=get_scale_code_book(torch.device("cpu")),
            blocksize=SCALES_PER_GROUP,
            dtype=torch.float32,
        )
        nested = {"absmax": scales.codes.cpu(), "offset": offset.cpu(), "state2": state}
    state = functional.QuantState(
        **nested,
        shape=result.positions.shape,
        dtype=dtype,
        blocksize=BLOCK_SIZE,
        code=functional.get_4bit_type(book.name, device="cpu"),
        quant_type=book.name,
    )
    packed = {f"weight.{ending}": tensor for ending, tensor in state.as_dict(packed=True).items()}
    return {"weight": book.pack_codes(result.positions).cpu(), **packed}


def dequantize(tensors: dict[str, Tensor]) -> Tensor:
    """Dequantize the result of `build_stored_tensors` to a weight [out, in]."""
    functional = import_bitsandbytes_functional()
    packed = {ending: tensor for ending, tensor in tensors.items() if ending != "weight"}
    state = functional.QuantState.from_dict(packed, torch.device("cpu"))
    dequantized: Tensor = functional.dequantize_4bit(tensors["weight"], state)
    return dequantized
