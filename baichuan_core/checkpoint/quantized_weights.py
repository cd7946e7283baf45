"""One weight to its quantized tensors and back, in the layout that bitsandbytes and transformers load."""

from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.model.eight_bit_ends import eight_bit_rows
from baichuan_core.model.eight_bits import quantize_rows_in_float16, restore_rows
from baichuan_core.model.four_bits import bitsandbytes_functional, quantize_four_bits
from baichuan_core.model.quantization import QuantizationMethod


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A quantized weight.

    Attributes:
        tensors: What is stored, by the ending that follows the name of the layer, e.g. "weight.absmax".
        restored: What the layer will compute with, [out, in].
    """

    tensors: dict[str, Tensor]
    restored: Tensor


def quantize_weight(weight: Tensor, method: QuantizationMethod, *, double_quantization: bool) -> QuantizedWeight:
    """Quantize one matrix [out, in].

    int8 is LLM.int8() with one scale a row (Dettmers et al. 2022, arXiv 2208.07339); NF4 and FP4 have one scale
    for 64 values (Dettmers et al. 2023, arXiv 2305.14314), with `double_quantization` itself in 8 bits.
    """
    if method == "int8":
        return _int8(weight)
    return _four_bits(weight, method, double_quantization)


def quantize_end(weight: Tensor) -> QuantizedWeight:
    """Quantize the embedding or the output head [vocab, hidden]: 8-bit codes, and one step a row."""
    codes, scale = eight_bit_rows(weight)
    return QuantizedWeight({"weight": codes, "scale": scale}, restore_end(codes, scale))


def restore_end(codes: Tensor, scale: Tensor) -> Tensor:
    """float32 [vocab, hidden] from the stored tensors of `quantize_end`."""
    return codes * scale[:, None]


def _int8(weight: Tensor) -> QuantizedWeight:
    codes, largest = quantize_rows_in_float16(weight)
    # 0 is row major, the only order bitsandbytes still writes.
    tensors = {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return QuantizedWeight(tensors, restore_rows(codes, largest))


def _four_bits(weight: Tensor, method: QuantizationMethod, double_quantization: bool) -> QuantizedWeight:
    codes, state = quantize_four_bits(weight, method, double_quantization=double_quantization)
    restored = bitsandbytes_functional().dequantize_4bit(codes, state)
    state_tensors = {f"weight.{ending}": tensor for ending, tensor in state.as_dict(packed=True).items()}
    return QuantizedWeight({"weight": codes, **state_tensors}, restored)
