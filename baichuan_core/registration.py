"""Importing this module registers the model family with transformers' `Auto` classes, for `model_type: baichuan`."""

from collections.abc import Mapping
from functools import wraps
from os import PathLike
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto import tokenization_auto

from .config import BaichuanConfig
from .model import BaichuanForCausalLM, BaichuanModel
from .tokenizer import BaichuanTokenizer

# Class names in the published tokenizer_config.json files.
TOKENIZER_CLASS, BAICHUAN1_7B_TOKENIZER_CLASS = "BaichuanTokenizer", "BaiChuanTokenizer"
_read_tokenizer_config: Any = tokenization_auto.get_tokenizer_config
# Arguments that determine which config.json belongs to a tokenizer_config.json.
_LOCATION_ARGUMENTS = ("cache_dir", "token", "revision", "local_files_only", "subfolder", "proxies", "force_download")


@wraps(_read_tokenizer_config)
def _get_tokenizer_config(pretrained_model_name_or_path: str | PathLike[str], *args: Any, **kwargs: Any) -> Any:
    """Read a tokenizer's settings as transformers does, but replace a Baichuan model's own code with our class."""
    settings = _read_tokenizer_config(pretrained_model_name_or_path, *args, **kwargs)
    if "auto_map" in settings or settings.get("tokenizer_class", TOKENIZER_CLASS) not in (
        TOKENIZER_CLASS,
        BAICHUAN1_7B_TOKENIZER_CLASS,
    ):
        location = {name: kwargs[name] for name in _LOCATION_ARGUMENTS if name in kwargs}
        config, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **location)
        family = config.get("model_type")
        names = _list_class_names(settings)  # needed for directories that contain only a tokenizer
        is_ours = family == "baichuan" or (
            family is None and any(name.lower().startswith("baichuan") for name in names)
        )
        if is_ours:
            settings.pop("auto_map", None)
            settings["tokenizer_class"] = TOKENIZER_CLASS
    return settings


def _list_class_names(settings: Mapping[str, Any]) -> list[str]:
    """Return the tokenizer's class names, without the module names that precede them in `auto_map`."""
    auto_map = settings.get("auto_map")
    mapped = auto_map.get("AutoTokenizer") if isinstance(auto_map, Mapping) else auto_map
    named = [settings.get("tokenizer_class"), *(mapped if isinstance(mapped, list | tuple) else [mapped])]
    return [name.rpartition(".")[2] for name in named if isinstance(name, str)]


AutoConfig.register("baichuan", BaichuanConfig, exist_ok=True)
AutoModel.register(BaichuanConfig, BaichuanModel, exist_ok=True)
AutoModelForCausalLM.register(BaichuanConfig, BaichuanForCausalLM, exist_ok=True)
# `AutoTokenizer.register` is not enough: with `trust_remote_code`, transformers would still run a repository's own
# tokenizer code.
tokenization_auto.REGISTERED_TOKENIZER_CLASSES.update(
    {TOKENIZER_CLASS: BaichuanTokenizer, BAICHUAN1_7B_TOKENIZER_CLASS: BaichuanTokenizer}
)
tokenization_auto.get_tokenizer_config = _get_tokenizer_config
