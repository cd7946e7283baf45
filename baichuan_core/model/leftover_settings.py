"""Ignores a `quantization_config` that a tool left in the configuration of unquantized weights.

transformers itself would interpret the weights as quantized codes.
"""

from copy import deepcopy
from os import PathLike
from pathlib import Path

from baichuan_core.config import BaichuanConfig
from checkpoint_files import FileError, read_settled_config


def remove_leftover_settings(directory: object, config: object) -> BaichuanConfig | None:
    """Return the corrected configuration of a local directory; None if it needs no correction.

    Args:
        directory: The first argument of `from_pretrained`.
        config: The configuration passed to `from_pretrained`; None to read the directory's own.
    """
    if not isinstance(directory, str | PathLike) or not Path(directory, "config.json").is_file():
        return None
    original = config if isinstance(config, BaichuanConfig) else BaichuanConfig.from_pretrained(directory)
    if getattr(original, "quantization_config", None) is None:
        return None
    try:
        is_leftover = "quantization_config" not in read_settled_config(Path(directory))
    except FileError:
        return None  # transformers reports the error itself
    if not is_leftover:
        return None
    corrected = deepcopy(original)
    del corrected.quantization_config
    return corrected
