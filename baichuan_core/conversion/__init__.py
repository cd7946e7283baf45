"""Converts checkpoints to other formats."""

from .convert import ConversionReport, ConversionTarget, convert
from .gguf_format import GgufType

__all__ = ["ConversionReport", "ConversionTarget", "GgufType", "convert"]
