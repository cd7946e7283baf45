"""Reads `config.json` and normalizes fields that other tools write differently from what the engine expects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config_values import check_values
from .errors import FileError, UnsupportedFileError
from .family import class_names
from .field_rules import SWITCH, check_fields, is_switch, is_whole, show
from .json_files import as_whole_numbers, read_object

WHOLE_NUMBERS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "model_max_length",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
# Booleans that old tools write as 1 or 0.
SWITCHES = ("norm_head", "quantize_head", "tie_word_embeddings")
# Settings of the machine that saved the file, not of the model.
MACHINE_FIELDS = (
    "_attn_implementation",
    "_attn_implementation_internal",
    "_attn_implementation_autoset",
)
DTYPE_FIELDS = ("dtype", "torch_dtype")
# Spellings of `quant_method` for bitsandbytes, without the class name that enumeration members begin with.
BITSANDBYTES_NAMES = ("bitsandbytes", "BITS_AND_BYTES")
METHODS = ("load_in_8bit", "load_in_4bit")
# Fields that identify GPTQ and AWQ even if `quant_method` is missing.
GPTQ_FIELDS = ("bits", "w_bit", "group_size", "q_group_size", "desc_act", "zero_point")


def read_config(checkpoint: Path) -> dict[str, Any]:
    """Return the cleaned `config.json` of a checkpoint directory.

    Raises:
        FileError: The file is missing or damaged, describes another model family or contradicts itself.
        UnsupportedFileError: The checkpoint was quantized by something other than bitsandbytes.
    """
    file = checkpoint / "config.json"
    if not file.exists():
        raise FileError(f"{file} is missing: {_describe_directory(checkpoint)}")
    content = read_object(file)
    _require_family(content, file)
    try:
        fields = clean_fields(clean_file_fields(content))
        check_values(fields)
    except UnsupportedFileError as fault:
        raise UnsupportedFileError(f"{file}: {fault}") from None
    except FileError as fault:
        raise FileError(f"{file} does not describe a valid model: {fault}") from None
    return fields


def _require_family(content: Mapping[str, Any], file: Path) -> None:
    family, names = content.get("model_type"), class_names(content)
    if isinstance(family, str) and family != "baichuan" and family.lower() == "baichuan":
        raise FileError(f'{file} has the model_type {family!r}: write "baichuan"')
    if family is not None and family != "baichuan":
        raise FileError(f"{file} describes a {show(family)} model: use a checkpoint of the Baichuan family")
    if family is None and names and not any(name.lower().startswith("baichuan") for name in names):
        raise FileError(f"{file} describes a {names[0][:100]} model: use a checkpoint of the Baichuan family")


def _describe_directory(folder: Path) -> str:
    """Return what a directory without `config.json` contains, with a remedy."""
    if (folder / "adapter_config.json").exists():
        return f"{folder} is an adapter; use its base as the model, and this directory as the adapter"
    if next(folder.glob("adapter_model.*"), None):
        return f"{folder} has the matrices of an adapter; copy its adapter_config.json too"
    if inner := sorted(path.name for path in folder.glob("checkpoint-*")):
        return f"{folder} has the checkpoints of a training run; use one of them, for example {folder / inner[-1]}"
    return f"{folder} is not a checkpoint directory"


def clean_file_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a file as a configuration object expects them.

    The attention implementation is removed, because in a configuration object it is the caller's choice.

    Raises:
        FileError: `quantization_config` is not an object.
    """
    fields = {name: value for name, value in content.items() if name != "attn_implementation"}
    for name in DTYPE_FIELDS:
        if isinstance(fields.get(name), str):
            fields[name] = fields[name].removeprefix("torch.")
    settings = fields.get("quantization_config")
    if not isinstance(settings, Mapping | None):
        raise FileError(
            f"quantization_config is {show(settings)}: use an object as bitsandbytes writes it, or remove the field"
        )
    return fields


def clean_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration without redundant and machine-specific ones.

    Raises:
        FileError: Fields contradict each other.
        UnsupportedFileError: The quantization is not that of bitsandbytes.
    """
    fields = as_whole_numbers(config, WHOLE_NUMBERS)
    fields |= {name: bool(fields[name]) for name in SWITCHES if name in fields and is_switch(fields[name])}
    heads, width = fields.get("num_attention_heads"), fields.get("hidden_size")
    groups, head_dim = fields.pop("num_key_value_heads", None), fields.pop("head_dim", None)
    if groups is not None and heads is not None and groups != heads:
        raise FileError(
            f"num_key_value_heads is {groups!r}, but num_attention_heads is {heads!r}: "
            "no Baichuan model has grouped-query attention, use a checkpoint with equal numbers"
        )
    if head_dim is not None and not is_whole(head_dim):
        raise FileError(f"head_dim is {head_dim!r}: remove it or set an integer")
    if head_dim is not None and heads and is_whole(heads) and is_whole(width) and head_dim * heads != width:
        raise FileError(
            f"head_dim is {head_dim!r}, but hidden_size {width!r} divided by num_attention_heads {heads!r} is "
            f"{width / heads:g}: remove head_dim or correct it"
        )
    for name in MACHINE_FIELDS:
        fields.pop(name, None)
    if "quantization_config" in fields and isinstance(fields["quantization_config"], Mapping | None):
        settings = bitsandbytes_settings(fields.pop("quantization_config"))
        if settings:
            fields["quantization_config"] = settings
    return fields


def bitsandbytes_settings(settings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the normalized `quantization_config` of bitsandbytes; None if it quantizes nothing.

    Raises:
        FileError: The settings select both 8 and 4 bits.
        UnsupportedFileError: The name or the fields are those of another method.
    """
    if not settings:
        return None
    method = settings.get("quant_method")
    if str(method).rpartition(".")[2] in BITSANDBYTES_NAMES:
        settings = {**settings, "quant_method": (method := "bitsandbytes")}
    if method not in (None, "bitsandbytes"):
        raise UnsupportedFileError(
            f"the checkpoint was quantized by {method}: use an unquantized or bitsandbytes checkpoint"
        )
    check_fields(settings, dict.fromkeys(METHODS, SWITCH), within="quantization_config.")
    settings = {**settings, **{name: bool(settings[name]) for name in METHODS if name in settings}}
    eight_bits, four_bits = settings.get("load_in_8bit"), settings.get("load_in_4bit")
    if eight_bits and four_bits:
        raise FileError("quantization_config sets both load_in_8bit and load_in_4bit: set only the one that is stored")
    if eight_bits or four_bits:
        threshold = settings.get("llm_int8_threshold")
        # bitsandbytes requires a float, but some tools write the integer 6.
        return {**settings, "llm_int8_threshold": float(threshold)} if type(threshold) is int else settings
    if method is None and (named := [name for name in GPTQ_FIELDS if name in settings]):
        raise UnsupportedFileError(
            f"quantization_config has {named[0]} but no quant_method, as GPTQ and AWQ write it: "
            "use an unquantized or bitsandbytes checkpoint"
        )
    return None
