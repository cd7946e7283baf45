"""4-bit codes chosen by what the model computes on a text, in the format and the size of plain ones."""

from .calibrated_weights import CalibratedWeights, calibrate
from .rows import Calibration, calibration_rows
from .stored_form import FourBitCode

__all__ = ["CalibratedWeights", "Calibration", "FourBitCode", "calibrate", "calibration_rows"]
