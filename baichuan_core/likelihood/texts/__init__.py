"""Built-in Chinese and English texts, written for this project, for calibration and for measurements."""

from importlib.resources import files


def load_calibration_text() -> str:
    """Return the default calibration text: prose, dialogue, explanations, code, lists and numbers."""
    return (files(__name__) / "calibration.txt").read_text(encoding="utf-8")


def load_held_out_text() -> str:
    """Return a text for measuring calibrated models, on subjects different from those of `load_calibration_text`."""
    return (files(__name__) / "held_out.txt").read_text(encoding="utf-8")
