"""Quantizes checkpoints to int8 or 4 bits and measures the quality of the result."""

from baichuan_core.model.quantization import QuantizationMethod

from .calibration import Calibration
from .quality import Candidate, ModelQuality, QualityReport, quality_report
from .quality_text import read_quality_text
from .quantize import QuantizationOptions, QuantizationReport, quantize

__all__ = [
    "Calibration",
    "Candidate",
    "ModelQuality",
    "QualityReport",
    "QuantizationMethod",
    "QuantizationOptions",
    "QuantizationReport",
    "quality_report",
    "quantize",
    "read_quality_text",
]
