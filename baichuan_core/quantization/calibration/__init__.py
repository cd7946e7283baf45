"""Calibrated quantization: choose 4-bit codes, or the outlier threshold of int8, by running the model on a text.

The result has the same format and size as without calibration.
"""

from .calibrated_weights import CalibratedWeights, calibrate
from .outliers import outlier_threshold
from .rows import Calibration, calibration_rows
from .storage_format import FourBitCode

__all__ = ["CalibratedWeights", "Calibration", "FourBitCode", "calibrate", "calibration_rows", "outlier_threshold"]
