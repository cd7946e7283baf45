"""Importing this module registers the model family with transformers' `Auto` classes, for `model_type: baichuan`."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import REGISTERED_TOKENIZER_CLASSES

from .config import BaichuanConfig
from .model import BaichuanForCausalLM, BaichuanModel
from .tokenizer import BaichuanTokenizer

AutoConfig.register("baichuan", BaichuanConfig, exist_ok=True)
AutoModel.register(BaichuanConfig, BaichuanModel, exist_ok=True)
AutoModelForCausalLM.register(BaichuanConfig, BaichuanForCausalLM, exist_ok=True)
# Registered by class name only: with `AutoTokenizer.register`, transformers would run a repository's own tokenizer file
# if `trust_remote_code` is true. `BaiChuanTokenizer` is the name in the tokenizer_config.json of Baichuan 1 7B.
REGISTERED_TOKENIZER_CLASSES.update(BaichuanTokenizer=BaichuanTokenizer, BaiChuanTokenizer=BaichuanTokenizer)
