"""A calibrated weight in the tensors that bitsandbytes and transformers load, of the size of the plain ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.model.four_bits import BLOCK, bitsandbytes_functional
from baichuan_core.model.quantization import QuantizationMethod

from .code_book import SCALES_UNDER_ONE, CodeBook, scale_code_book
from .compensation import CalibratedWeight


@dataclass(frozen=True, slots=True)
class FourBitCode:
    """What weights become: "nf4" or "fp4", and whether scales are kept in 8 bits."""

    method: QuantizationMethod
    double_quantization: bool


def nest_offset(weight: Tensor) -> Tensor:
    """What double quantization subtracts from the scales of a weight [out, in]: the mean that plain quantization takes.

    It is written in decimal digits, so with another number the file would not have the same size.
    """
    return weight.cpu().reshape(-1, BLOCK).abs().amax(dim=1).mean().to(weight.device)


def stored_tensors(
    result: CalibratedWeight, book: CodeBook, offset: Tensor | None, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Tensors on the CPU by the ending that follows the layer's name, as `quantize_weight` gives them.

    Args:
        result: The weight.
        book: Its code book.
        offset: That of double quantization; None without it.
        dtype: Of the weight before it was quantized.
    """
    functional, scales = bitsandbytes_functional(), result.scales
    nested: dict[str, object] = {"absmax": scales.restored.reshape(-1).cpu()}
    if offset is not None and scales.codes is not None and scales.largest is not None:
        state = functional.QuantState(
            absmax=scales.largest.cpu(),
            code=scale_code_book(torch.device("cpu")),
            blocksize=SCALES_UNDER_ONE,
            dtype=torch.float32,
        )
        nested = {"absmax": scales.codes.cpu(), "offset": offset.cpu(), "state2": state}
    state = functional.QuantState(
        **nested,
        shape=result.positions.shape,
        dtype=dtype,
        blocksize=BLOCK,
        code=functional.get_4bit_type(book.name, device="cpu"),
        quant_type=book.name,
    )
    packed = {f"weight.{ending}": tensor for ending, tensor in state.as_dict(packed=True).items()}
    return {"weight": book.pack(result.positions).cpu(), **packed}


def restore(tensors: dict[str, Tensor]) -> Tensor:
    """What a layer computes with, [out, in], from the tensors of `stored_tensors`."""
    functional = bitsandbytes_functional()
    packed = {ending: tensor for ending, tensor in tensors.items() if ending != "weight"}
    state = functional.QuantState.from_dict(packed, torch.device("cpu"))
    restored: Tensor = functional.dequantize_4bit(tensors["weight"], state)
    return restored
