"""Recognizes a `quantization_config` that a tool left beside plain weights, which transformers would load as codes."""

from copy import deepcopy
from os import PathLike
from pathlib import Path

from baichuan_core.config import BaichuanConfig
from checkpoint_files import FileError, read_settled_config


def without_leftover_settings(directory: object, config: object) -> BaichuanConfig | None:
    """Return the configuration to load the weights of a local directory with, None if the one it has will do.

    Args:
        directory: What `from_pretrained` is asked to load.
        config: The configuration that it was given, None if it is to read that of the directory.
    """
    if not isinstance(directory, str | PathLike) or not Path(directory, "config.json").is_file():
        return None
    given = config if isinstance(config, BaichuanConfig) else BaichuanConfig.from_pretrained(directory)
    if getattr(given, "quantization_config", None) is None:
        return None
    try:
        is_leftover = "quantization_config" not in read_settled_config(Path(directory))
    except FileError:
        return None  # transformers names what it cannot read
    if not is_leftover:
        return None
    plain = deepcopy(given)
    del plain.quantization_config
    return plain
