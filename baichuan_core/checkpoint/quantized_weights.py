"""Quantizes and dequantizes individual weights in the layout that bitsandbytes and transformers load."""

from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.model.eight_bit_embedding_and_head import quantize_to_scaled_codes
from baichuan_core.model.eight_bits import dequantize_rows, quantize_rows_in_float16
from baichuan_core.model.four_bits import import_bitsandbytes_functional, quantize_to_four_bits
from baichuan_core.model.quantization import QuantizationMethod


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A quantized weight: the tensors to store and the values that they represent.

    Attributes:
        tensors: Tensors to store, by the suffix that follows the layer's name, e.g. "weight.absmax".
        dequantized: The values that the layer will compute with, [out, in].
    """

    tensors: dict[str, Tensor]
    dequantized: Tensor


def quantize_weight(weight: Tensor, method: QuantizationMethod, *, double_quantization: bool) -> QuantizedWeight:
    """Quantize one matrix [out, in].

    int8 is LLM.int8() with one scale per row (Dettmers et al. 2022, arXiv 2208.07339). NF4 and FP4 have one scale
    per 64 values (Dettmers et al. 2023, arXiv 2305.14314), which `double_quantization` quantizes to 8 bits.
    """
    if method == "int8":
        return _quantize_to_int8(weight)
    return _quantize_to_four_bits(weight, method, double_quantization)


def quantize_embedding_or_head(weight: Tensor) -> QuantizedWeight:
    """Quantize the embedding or the output head [vocab, hidden] to 8-bit codes with one scale per row."""
    codes, scale = quantize_to_scaled_codes(weight)
    return QuantizedWeight({"weight": codes, "scale": scale}, dequantize_embedding_or_head(codes, scale))


def dequantize_embedding_or_head(codes: Tensor, scale: Tensor) -> Tensor:
    """Dequantize the codes and scales of `quantize_embedding_or_head` to float32 [vocab, hidden]."""
    return codes * scale[:, None]


def _quantize_to_int8(weight: Tensor) -> QuantizedWeight:
    codes, absmax = quantize_rows_in_float16(weight)
    # weight_format 0 is row-major, the only order that bitsandbytes still writes.
    tensors = {"weight": codes, "SCB": absmax, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return QuantizedWeight(tensors, dequantize_rows(codes, absmax))


def _quantize_to_four_bits(weight: Tensor, method: QuantizationMethod, double_quantization: bool) -> QuantizedWeight:
    codes, state = quantize_to_four_bits(weight, method, double_quantization=double_quantization)
    dequantized = import_bitsandbytes_functional().dequantize_4bit(codes, state)
    state_tensors = {f"weight.{ending}": tensor for ending, tensor in state.as_dict(packed=True).items()}
    return QuantizedWeight({"weight": codes, **state_tensors}, dequantized)
