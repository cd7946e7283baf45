"""Importing this module registers the model family with transformers' `Auto` classes, for `model_type: baichuan`."""

from functools import wraps
from os import PathLike
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto import tokenization_auto

from .config import BaichuanConfig
from .model import BaichuanForCausalLM, BaichuanModel
from .tokenizer import BaichuanTokenizer

_read_tokenizer_config: Any = tokenization_auto.get_tokenizer_config
# What decides which config.json belongs to a tokenizer_config.json.
_PLACE = ("cache_dir", "token", "revision", "local_files_only", "subfolder", "proxies", "force_download")


@wraps(_read_tokenizer_config)
def _get_tokenizer_config(pretrained_model_name_or_path: str | PathLike[str], *args: Any, **kwargs: Any) -> Any:
    """As transformers', but a Baichuan model's settings name this package's class in place of the repository's code."""
    settings = _read_tokenizer_config(pretrained_model_name_or_path, *args, **kwargs)
    if "auto_map" in settings:
        place = {name: kwargs[name] for name in _PLACE if name in kwargs}
        try:
            config, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **place)
        except OSError:
            return settings  # a tokenizer without a model
        if config.get("model_type") == BaichuanConfig.model_type:
            del settings["auto_map"]
            settings["tokenizer_class"] = BaichuanTokenizer.__name__
    return settings


AutoConfig.register("baichuan", BaichuanConfig, exist_ok=True)
AutoModel.register(BaichuanConfig, BaichuanModel, exist_ok=True)
AutoModelForCausalLM.register(BaichuanConfig, BaichuanForCausalLM, exist_ok=True)
# `AutoTokenizer.register` would not do: if `trust_remote_code` is true, transformers would run a repository's own
# tokenizer file. `BaiChuanTokenizer` is the name in the tokenizer_config.json of Baichuan 1 7B.
tokenization_auto.REGISTERED_TOKENIZER_CLASSES.update(
    BaichuanTokenizer=BaichuanTokenizer, BaiChuanTokenizer=BaichuanTokenizer
)
tokenization_auto.get_tokenizer_config = _get_tokenizer_config
