"""Rotary position embedding of the 7B models; the 13B models use ALiBi instead."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update

from baichuan_core.config import BaichuanConfig


class BaichuanRotaryEmbedding(nn.Module):
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864), always in float32.

    transformers recognizes the buffers by their names and recomputes them after a load on the meta device.
    """

    inv_freq: Tensor
    original_inv_freq: Tensor

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        parameters: dict[str, Any] = config.rope_parameters or {}
        self.rope_type = parameters["rope_type"]
        initialise = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        frequencies, self.attention_scaling = initialise(config)
        self.register_buffer("inv_freq", frequencies, persistent=False)
        self.register_buffer("original_inv_freq", frequencies.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: BaichuanConfig) -> tuple[Tensor, float]:
        """Return the frequencies theta^(-2i/d) for i < d/2, and the scaling factor of cosine and sine (1)."""
        theta: float = (config.rope_parameters or {})["rope_theta"]
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return theta**-exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and signed sine, float32 [batch, 1, 1, seq, head_dim], of `position_ids` [batch, seq]."""
        angles = position_ids[:, None, None, :, None].float() * self.inv_freq.float().to(x.device)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Rotate each pair (x_i, x_{i+d/2}) of [..., seq, d] by its angle, in float32 like Baichuan2.

    Rotating a pair by 90 degrees gives (-x_{i+d/2}, x_i); `signed_sin` contains the sign.
    """
    exact = x.float()
    return (exact * cos).addcmul_(exact.roll(x.shape[-1] // 2, dims=-1), signed_sin).to(x.dtype)
