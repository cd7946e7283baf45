"""The Baichuan models implemented with vLLM's layers.

vLLM included a Baichuan model up to version 0.23. A Baichuan block is a Llama block whose queries, keys and values come
from one matrix, so this module contains only the differences: weight names, ALiBi, and the normalized head.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM

from baichuan_core.config import BaichuanConfig
from baichuan_core.model.alibi import compute_alibi_slopes
from baichuan_core.model.chunked_loss import MIN_NORM


class AlibiAttention(nn.Module):
    """Attention of the 13B models: ALiBi with one slope per head, applied by vLLM's kernels, instead of RoPE."""

    def __init__(
        self,
        config: BaichuanConfig,
        *,
        cache_config: Any = None,
        quant_config: Any = None,
        prefix: str = "",
        **_: Any,
    ) -> None:
        super().__init__()
        heads = config.num_attention_heads // get_tensor_model_parallel_world_size()
        first = heads * get_tensor_model_parallel_rank()
        slopes = compute_alibi_slopes(config.num_attention_heads, torch.device("cpu"))[first : first + heads]
        self.qkv_proj = QKVParallelLinear(
            config.hidden_size,
            config.head_dim,
            config.num_attention_heads,
            bias=False,
            quant_config=quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            config.hidden_size,
            config.hidden_size,
            bias=False,
            quant_config=quant_config,
            prefix=f"{prefix}.o_proj",
        )
        self.attn = Attention(
            heads,
            config.head_dim,
            config.head_dim**-0.5,
            alibi_slopes=slopes.tolist(),
            cache_config=cache_config,
            quant_config=quant_config,
            prefix=f"{prefix}.attn",
        )

    def forward(self, positions: Tensor, hidden_states: Tensor) -> Tensor:  # noqa: ARG002 - part of the interface
        """Compute the attention of hidden states [tokens, hidden]; the result has the same shape."""
        packed, _ = self.qkv_proj(hidden_states)
        output: Tensor = self.o_proj(self.attn(*packed.chunk(3, dim=-1)))[0]
        return output


class BaichuanDecoderLayer(LlamaDecoderLayer):  # type: ignore[misc] # vLLM is not installed when types are checked
    """A block with ALiBi or rotary attention, depending on the configuration."""

    def __init__(self, vllm_config: Any, prefix: str = "") -> None:
        config: BaichuanConfig = vllm_config.model_config.hf_config
        attention = AlibiAttention if config.position_embedding == "alibi" else LlamaAttention
        super().__init__(vllm_config, prefix, config, attention)


class BaichuanForCausalLM(LlamaForCausalLM):  # type: ignore[misc] # as above
    """The model for all four families, which differ in the position embedding and the output head."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=BaichuanDecoderLayer)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load weights named as in the published checkpoints."""
        loaded: set[str] = super().load_weights(_convert_weights_to_llama(weights, self.config))
        return loaded


def _convert_weights_to_llama(
    weights: Iterable[tuple[str, Tensor]], config: BaichuanConfig
) -> Iterator[tuple[str, Tensor]]:
    """Rename tensors to Llama's names, and normalize the rows of a NormHead in float32, as the published code does."""
    for name, weight in weights:
        if name.endswith("rotary_emb.inv_freq"):  # present in Baichuan 1 7B; computed from the configuration instead
            continue
        if name.endswith("W_pack.weight"):
            for part, rows in zip("qkv", weight.chunk(3), strict=True):
                yield name.replace("W_pack", f"{part}_proj"), rows
        elif name == "lm_head.weight" and config.norm_head:
            yield name, nn.functional.normalize(weight.float(), dim=-1, eps=MIN_NORM).to(weight.dtype)
        else:
            yield name, weight
