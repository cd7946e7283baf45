"""Checkpoints in other forms."""

from .convert import ConversionReport, ConversionTarget, convert
from .gguf_form import GgufType

__all__ = ["ConversionReport", "ConversionTarget", "GgufType", "convert"]
