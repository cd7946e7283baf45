"""int8 and 4-bit checkpoints."""

from .quantize import QuantizationOptions, QuantizationReport, quantize
from .weights import QuantizationMethod

__all__ = ["QuantizationMethod", "QuantizationOptions", "QuantizationReport", "quantize"]
