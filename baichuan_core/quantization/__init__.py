"""int8 and 4-bit checkpoints."""

from baichuan_core.checkpoint.quantized_weights import QuantizationMethod

from .quantize import QuantizationOptions, QuantizationReport, quantize

__all__ = ["QuantizationMethod", "QuantizationOptions", "QuantizationReport", "quantize"]
