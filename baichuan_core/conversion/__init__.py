"""Checkpoints in other forms."""

from .convert import ConversionReport, ConversionTarget, convert

__all__ = ["ConversionReport", "ConversionTarget", "convert"]
