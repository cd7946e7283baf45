"""Converts a 7B model to an equivalent Llama model: splits `W_pack` and normalizes the head."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from transformers import LlamaConfig

from baichuan_core.checkpoint import EMBEDDING, HEAD
from baichuan_core.checkpoint.parallel_writer import PlannedTensor
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError

from .dense import DenseTensors
from .rows import normalize_tensor, select_stacked_matrix

PACKED_SUFFIX = ".self_attn.W_pack.weight"


def build_llama_config(config: BaichuanConfig, dtype: torch.dtype) -> LlamaConfig:
    """Return the configuration of the equivalent Llama model.

    Raises:
        UnsupportedError: The model does not use RoPE, the only position embedding that Llama supports.
    """
    if config.position_embedding != "rope":
        raise UnsupportedError(
            "this model uses ALiBi, as all 13B models do, but Llama supports only RoPE: "
            "use a 7B model, or another target"
        )
    settings: dict[str, Any] = {
        # Programs other than transformers look for the field under this name.
        "rope_theta": (config.rope_parameters or {})["rope_theta"],
        "max_position_embeddings": config.max_position_embeddings,
    }
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_attention_heads,
        hidden_act=config.hidden_act,
        initializer_range=config.initializer_range,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters=config.rope_parameters,
        tie_word_embeddings=_is_tied(config),
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        dtype=dtype,
        **settings,
    )


def plan_llama_tensors(source: DenseTensors, config: BaichuanConfig) -> Iterator[PlannedTensor]:
    """Yield the tensors of the equivalent Llama model."""
    for name in source.names:
        tensor = source.plan_tensor(name)
        if name.endswith(PACKED_SUFFIX):
            for number, letter in enumerate("qkv"):
                yield select_stacked_matrix(
                    tensor, name.replace(PACKED_SUFFIX, f".self_attn.{letter}_proj.weight"), number, 3
                )
        else:
            yield normalize_tensor(tensor) if name == HEAD and config.norm_head else tensor
    if config.tie_word_embeddings and config.norm_head:
        yield normalize_tensor(replace(source.plan_tensor(EMBEDDING), name=HEAD))


def _is_tied(config: BaichuanConfig) -> bool:
    """Return whether the Llama model's head is its embedding, which is impossible if the head has been normalized."""
    return bool(config.tie_word_embeddings and not config.norm_head)
