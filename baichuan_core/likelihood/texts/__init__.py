"""Texts that this project wrote, Chinese and English, to calibrate with and to measure on."""

from importlib.resources import files


def calibration_text() -> str:
    """Prose, dialogue, explanation, code, lists and numbers; what calibrated quantization looks at by default."""
    return (files(__name__) / "calibration.txt").read_text(encoding="utf-8")


def held_out_text() -> str:
    """Other subjects than those of `calibration_text`, so that what was calibrated on it can be measured."""
    return (files(__name__) / "held_out.txt").read_text(encoding="utf-8")
