"""Calibrated quantization: 4-bit codes or the outlier threshold of int8 are chosen by running the model on a text.

The result has the same format and size as without calibration.
"""

from .calibrated_weights import CalibratedWeights, calibrate
from .outliers import find_outlier_threshold
from .rows import Calibration, read_calibration_rows
from .storage_format import FourBitFormat

__all__ = [
    "CalibratedWeights",
    "Calibration",
    "FourBitFormat",
    "calibrate",
    "find_outlier_threshold",
    "read_calibration_rows",
]
