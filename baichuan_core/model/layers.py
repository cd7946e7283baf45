"""The layers of a Baichuan block: norm, feed-forward and attention, under the names used in checkpoints."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from baichuan_core.config import BaichuanConfig

from .alibi import AlibiColumns
from .positions import rotate

Rotation = tuple[Tensor, Tensor]
AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


class BaichuanRMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, normalized in float32."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [..., hidden]; shape and dtype stay the same."""
        exact = x.float()
        mean_square = exact.square().mean(dim=-1, keepdim=True)
        return self.weight * (exact * torch.rsqrt(mean_square + self.eps)).to(x.dtype)


class BaichuanMLP(nn.Module):
    """Gated feed-forward network: down(silu(gate(x)) · up(x))."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, seq, hidden] to the same shape."""
        output: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return output


def eager_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Compute softmax(Q Kᵀ · scaling + mask) V without a fused kernel, so that attention weights are available.

    Returns:
        The output [batch, seq, heads, head_dim] and the weights [batch, heads, seq, keys].
    """
    scores = query @ key.transpose(-2, -1) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class BaichuanAttention(nn.Module):
    """Multi-head attention; one matrix, `W_pack` [3 · hidden, hidden], projects to queries, keys and values."""

    is_causal = True
    num_key_value_groups = 1

    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.heads = config.num_attention_heads
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotation: Rotation | None = None,
        alibi: AlibiColumns | None = None,
        past_key_values: Cache | None = None,
        attention: AttentionFunction | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Map [batch, seq, hidden] to the same shape; also return the attention weights if they are computed."""
        packed = self.W_pack(hidden_states).unflatten(-1, (3, self.heads, self.head_dim))
        packed = packed.permute(0, 2, 3, 1, 4)  # [batch, 3, heads, seq, head_dim]
        query_key, value = packed[:, :2], packed[:, 2]
        if rotation is not None:
            query_key = rotate(query_key, *rotation)
        query, key = query_key.unbind(1)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if alibi is not None:
            query, key, value = alibi.prepend_to(query, key, value)
        attend: AttentionFunction = attention or ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        mixed, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, dropout=0.0, **kwargs)
        return self.o_proj(mixed[..., : self.head_dim].flatten(-2)), weights


class BaichuanDecoderLayer(GradientCheckpointingLayer):
    """One block: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = BaichuanAttention(config, layer_idx)
        self.mlp = BaichuanMLP(config)
        self.input_layernorm = BaichuanRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = BaichuanRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotation: Rotation | None = None,
        alibi: AlibiColumns | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Map [batch, seq, hidden] to the same shape."""
        attended, _ = self.self_attn(
            self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            rotation=rotation,
            alibi=alibi,
            past_key_values=past_key_values,
            **kwargs,
        )
        hidden_states = hidden_states + attended
        output: Tensor = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return output
