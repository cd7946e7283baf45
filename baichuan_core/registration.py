"""Importing this module registers the model family with transformers' `Auto` classes, for `model_type: baichuan`."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.tokenization_auto import REGISTERED_TOKENIZER_CLASSES

from .config import BaichuanConfig
from .model import BaichuanForCausalLM, BaichuanModel
from .tokenizer import BaichuanTokenizer

AutoConfig.register("baichuan", BaichuanConfig, exist_ok=True)
AutoModel.register(BaichuanConfig, BaichuanModel, exist_ok=True)
AutoModelForCausalLM.register(BaichuanConfig, BaichuanForCausalLM, exist_ok=True)
AutoTokenizer.register(BaichuanConfig, slow_tokenizer_class=BaichuanTokenizer, exist_ok=True)
# The name of the tokenizer class in the tokenizer_config.json of Baichuan 1 7B.
REGISTERED_TOKENIZER_CLASSES["BaiChuanTokenizer"] = BaichuanTokenizer
