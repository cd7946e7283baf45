"""The files of a checkpoint that are no weights: configuration, tokenizer and generation settings."""

import json
import shutil
from pathlib import Path
from typing import Any

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError, UnsupportedError

# Code of published repositories is left behind: nothing here runs it.
COMPANIONS = (
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
MORE_TEMPLATES = "additional_chat_templates"  # transformers' folder for a tokenizer with several chat templates


def read_config(checkpoint: Path) -> BaichuanConfig:
    """The configuration of a checkpoint directory.

    Raises:
        CheckpointError: It is missing, no JSON, or of another model family.
        UnsupportedError: The checkpoint was quantized by something else than bitsandbytes.
    """
    file = checkpoint / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{file} is missing: {checkpoint} is not a checkpoint directory")
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        family = content.get("model_type", "baichuan")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}): copy or download it again") from error
    if family != "baichuan":
        raise CheckpointError(f"{file} describes a {family} model: use a checkpoint of the Baichuan family")
    try:
        config: BaichuanConfig = BaichuanConfig.from_dict(content)
    except Exception as error:
        raise CheckpointError(f"{file} describes no possible model: {error}") from error
    quantization = content.get("quantization_config") or {}
    if (method := quantization.get("quant_method", "bitsandbytes")) != "bitsandbytes":
        raise UnsupportedError(f"{checkpoint} was quantized by {method}: use an unquantized or bitsandbytes checkpoint")
    return config


def copy_companions(source: Path, target: Path) -> None:
    """Copy tokenizer, chat templates and generation settings, those that exist."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if (source / MORE_TEMPLATES).is_dir():
        shutil.copytree(source / MORE_TEMPLATES, target / MORE_TEMPLATES, dirs_exist_ok=True)
