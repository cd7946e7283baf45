"""Reads and copies a checkpoint's files other than the weights: configuration, tokenizer and generation settings."""

import shutil
from pathlib import Path

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError
from checkpoint_files import MORE_TEMPLATES, read_settled_config

from .file_errors import translate_file_errors

# Python files of published repositories are not copied, because this package never runs them.
COMPANION_FILES = (
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)


def read_config(checkpoint: Path) -> BaichuanConfig:
    """Return the configuration of a checkpoint directory.

    Raises:
        CheckpointError: The configuration is missing, is not JSON, or belongs to another model family.
        UnsupportedError: The checkpoint was quantized by something other than bitsandbytes.
    """
    with translate_file_errors():
        content = read_settled_config(checkpoint)
    try:
        config: BaichuanConfig = BaichuanConfig.from_dict(content)
        config.check()
    except Exception as error:
        raise CheckpointError(f"{checkpoint / 'config.json'} does not describe a valid model: {error}") from error
    return config


def copy_companion_files(source: Path, target: Path) -> None:
    """Copy the tokenizer files, chat templates and generation settings that exist."""
    for name in COMPANION_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if (source / MORE_TEMPLATES).is_dir():
        shutil.copytree(source / MORE_TEMPLATES, target / MORE_TEMPLATES, dirs_exist_ok=True)
