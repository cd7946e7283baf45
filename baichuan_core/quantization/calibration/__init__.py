"""Codes, and the inputs of int8 that stay floats, chosen by what the model computes on a text; of the plain size."""

from .calibrated_weights import CalibratedWeights, calibrate
from .outliers import outlier_threshold
from .rows import Calibration, calibration_rows
from .stored_form import FourBitCode

__all__ = ["CalibratedWeights", "Calibration", "FourBitCode", "calibrate", "calibration_rows", "outlier_threshold"]
