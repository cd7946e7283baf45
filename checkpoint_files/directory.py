"""Checks a model directory without loading weights, at registration and before a job."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .adapter_layers import (
    AdapterLayers,
    assign_to_layers,
    find_adapter_weights,
    reject_integers,
    require_selected_layers,
    select_layers,
)
from .adapter_settings import CONFIG_FILE, AdapterSettings
from .config import read_config
from .errors import FileError
from .generation_values import FILE as GENERATION_CONFIG
from .generation_values import check_chat_tokens, check_end_tokens, read_generation_config
from .headers import Header, read_headers
from .json_files import LFS_POINTER, reject_lfs_pointer
from .layout import block_layers
from .model_fields import ModelFields
from .tensors import check_tensors, holds_plain_weights
from .tokenizer_files import check_tokenizer_files
from .weights import WeightHeaders

GGUF_MAGIC = b"GGUF"
_BLOCK_NUMBER = re.compile(r"^model\.layers\.(\d+)\.")


def check_directory(folder: Path) -> None:
    """Check a model directory: a checkpoint, an adapter or a GGUF file.

    Raises:
        FileError: The directory cannot be used; the message names the file, the field and the remedy.
        OSError: A file cannot be read.
    """
    if (folder / CONFIG_FILE).exists():
        check_adapter_files(folder)
    elif next(folder.glob("*.gguf"), None):
        check_gguf_files(folder)
    else:
        check_checkpoint_files(folder)


def check_gguf_files(folder: Path) -> None:
    """Check a directory with a GGUF file and the tokenizer that encodes its prompts.

    Raises:
        FileError: See `check_directory`.
    """
    config = read_config(folder)
    for file in folder.glob("*.gguf"):
        with file.open("rb") as stream:
            beginning = stream.read(len(LFS_POINTER))
        reject_lfs_pointer(file, beginning)
        if not beginning.startswith(GGUF_MAGIC):
            raise FileError(f"{file} is not a GGUF file: copy or convert it again")
    check_companions(folder, config, _model_fields(folder, config).vocab_size)


def check_checkpoint_files(checkpoint: Path) -> None:
    """Check the configuration of a checkpoint and the headers of its weights.

    Raises:
        FileError: See `check_directory`.
    """
    config = read_config(checkpoint)
    fields = _model_fields(checkpoint, config)
    weights = WeightHeaders(checkpoint)
    if not weights.is_published_int4:
        quantization = config.get("quantization_config")
        is_leftover = quantization is not None and holds_plain_weights(weights, fields)
        check_tensors(weights, fields, None if is_leftover else quantization)
    check_companions(checkpoint, config, fields.vocab_size)


def check_companions(folder: Path, config: Mapping[str, Any], vocab_size: int) -> None:
    """Check the tokenizer and the generation settings of a model with this configuration.

    Raises:
        FileError: See `check_directory`.
    """
    check_tokenizer_files(folder, vocab_size)
    check_end_tokens(config, vocab_size, folder / "config.json")
    generation = read_generation_config(folder)
    check_end_tokens(generation, vocab_size, folder / GENERATION_CONFIG)
    check_chat_tokens(generation, vocab_size, folder / GENERATION_CONFIG)


def check_adapter_files(adapter: Path) -> AdapterLayers:
    """Check an adapter by itself, without comparing it with a base.

    Returns:
        The adapter's layers.

    Raises:
        FileError: See `check_directory`.
    """
    settings = AdapterSettings.read(adapter)
    file = find_adapter_weights(adapter)
    headers = _read_tensor_headers(file)
    found = assign_to_layers({name: header.shape for name, header in headers.items()}, settings, file)
    reject_integers({name: header.dtype for name, header in headers.items() if not header.is_float}, file)
    require_selected_layers(found.layers, _select_layers(settings, found), found.saved_modules, settings, file)
    return found


def read_settled_config(checkpoint: Path) -> dict[str, Any]:
    """Return the cleaned configuration, without quantization settings that a tool left behind next to plain weights.

    Raises:
        FileError: See `check_directory`.
    """
    config = read_config(checkpoint)
    if "quantization_config" in config and not next(checkpoint.glob("*.gguf"), None):
        weights = WeightHeaders(checkpoint)
        if not weights.is_published_int4 and holds_plain_weights(weights, _model_fields(checkpoint, config)):
            del config["quantization_config"]
    return config


def _model_fields(checkpoint: Path, config: dict[str, Any]) -> ModelFields:
    try:
        return ModelFields.from_config(config)
    except FileError as fault:
        raise type(fault)(f"{checkpoint / 'config.json'} does not describe a valid model: {fault}") from None


def _read_tensor_headers(file: Path) -> dict[str, Header]:
    headers = {}
    for name, stored in read_headers(file).items():
        if not isinstance(stored, Header):
            raise FileError(f"{file} contains {name}, which is not a tensor: copy the whole adapter again")
        headers[name] = stored
    return headers


def _select_layers(settings: AdapterSettings, found: AdapterLayers) -> set[str]:
    """Return the layers that the settings select in a base with as many blocks as the adapter."""
    blocks = [int(match[1]) for name in found.layers if (match := _BLOCK_NUMBER.match(name))]
    linear = [layer for block in range(max(blocks, default=-1) + 1) for layer in block_layers(block)]
    targets = settings.target_modules
    named = [] if isinstance(targets, str) else [target for target in targets or () if target == "lm_head"]
    return select_layers(settings, [*linear, *named])
