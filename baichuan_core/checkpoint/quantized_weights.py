"""One weight to its quantized tensors and back, in the layout that bitsandbytes and transformers load."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor

QuantizationMethod = Literal["int8", "nf4", "fp4"]
BLOCK = 64  # bitsandbytes' block of one absmax


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A quantized weight.

    Attributes:
        tensors: What is stored, by the ending that follows the name of the layer, e.g. "weight.absmax".
        restored: What the layer will compute with, [out, in] in float32.
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


def stored_endings(method: QuantizationMethod, *, double_quantization: bool) -> list[str]:
    """Endings of all tensors that `quantize_weight` gives."""
    if method == "int8":
        return ["weight", "SCB", "weight_format"]
    nested = ["weight.nested_absmax", "weight.nested_quant_map"] if double_quantization else []
    state = f"weight.quant_state.bitsandbytes__{method}"
    return ["weight", "weight.absmax", "weight.quant_map", *nested, state]


@cache
def _bitsandbytes() -> Any:
    """Imported when first needed: it looks for kernels and logs what it lacks."""
    return import_module("bitsandbytes.functional")


def _int8(weight: Tensor) -> QuantizedWeight:
    # On a GPU bitsandbytes quantizes in float16; it does so here too, that both give the same bytes.
    codes, scales, _ = _bitsandbytes().int8_vectorwise_quant(weight.to(torch.float16))
    restored = _bitsandbytes().int8_vectorwise_dequant(codes, scales)
    # 0 is row major, the only order bitsandbytes still writes.
    tensors = {"weight": codes, "SCB": scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return QuantizedWeight(tensors, restored.float())


def _four_bits(weight: Tensor, method: QuantizationMethod, double_quantization: bool) -> QuantizedWeight:
    codes, state = _bitsandbytes().quantize_4bit(
        weight.contiguous(), blocksize=BLOCK, compress_statistics=double_quantization, quant_type=method
    )
    restored = _bitsandbytes().dequantize_4bit(codes, state)
    state_tensors = {f"weight.{ending}": tensor for ending, tensor in state.as_dict(packed=True).items()}
    return QuantizedWeight({"weight": codes, **state_tensors}, restored.float())
