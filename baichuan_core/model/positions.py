"""Rotary position embedding of the 7B models; the 13B models use ALiBi instead."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError

LENGTH_DEPENDENT_ROPE_TYPES = ("dynamic", "longrope")


class BaichuanRotaryEmbedding(nn.Module):
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864), always in float32.

    transformers recognizes the buffers by their names and recomputes them after loading on the meta device.
    """

    inv_freq: Tensor
    original_inv_freq: Tensor

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.config = config
        self.rope_type = (config.rope_parameters or {})["rope_type"]
        initialize = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        frequencies, self.attention_scaling = initialize(config)
        self.register_buffer("inv_freq", frequencies, persistent=False)
        self.register_buffer("original_inv_freq", frequencies.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: BaichuanConfig) -> tuple[Tensor, float]:
        """Return the frequencies theta^(-2i/d) for i < d/2, and the scaling factor of cosine and sine (1)."""
        theta: float = (config.rope_parameters or {})["rope_theta"]
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return theta**-exponents, 1.0

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and signed sine, float32 [batch, 1, 1, seq, head_dim], of `position_ids` [batch, seq].

        Raises:
            UnsupportedError: The frequencies depend on the length of a sequence, but `x` contains several sequences.
        """
        frequencies = self.inv_freq
        if self.rope_type in LENGTH_DEPENDENT_ROPE_TYPES:
            frequencies = self._compute_frequencies(int(position_ids.max()) + 1, len(x))
        angles = position_ids[:, None, None, :, None].float() * frequencies.float().to(x.device)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def _compute_frequencies(self, length: int, sequences: int) -> Tensor:
        """Return the frequencies for a sequence of `length` tokens.

        transformers itself would compute them for the longest sequence of a batch and keep them for later batches, so
        that an answer would depend on other prompts.
        """
        if length <= get_unscaled_length(self.config):
            return self.inv_freq
        if sequences > 1:
            raise UnsupportedError(
                f'rope_type "{self.rope_type}" scales by the length of each sequence beyond '
                f"{get_unscaled_length(self.config)} tokens, so {sequences} sequences cannot share a batch: pass one "
                'at a time, or set rope_type to "linear" or "yarn"'
            )
        frequencies, _ = ROPE_INIT_FUNCTIONS[self.rope_type](self.config, self.inv_freq.device, seq_len=length)
        return frequencies


def get_unscaled_length(config: BaichuanConfig) -> int:
    """Return the sequence length up to which length-dependent rotations equal those of the unextended model."""
    parameters: dict[str, Any] = config.rope_parameters or {}
    original = parameters.get("original_max_position_embeddings") if parameters["rope_type"] == "longrope" else None
    return int(original or config.max_position_embeddings or 0)


def has_length_dependent_rotation(config: BaichuanConfig) -> bool:
    """Return whether the rotation of some prompts that fit into the model's window depends on their length."""
    if (
        config.position_embedding != "rope"
        or (config.rope_parameters or {}).get("rope_type") not in LENGTH_DEPENDENT_ROPE_TYPES
    ):
        return False
    return (config.model_max_length or 0) > get_unscaled_length(config)


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Rotate each pair (x_i, x_{i+d/2}) of [..., seq, d] by its angle, in float32 like Baichuan2.

    Rotating a pair by 90 degrees gives (-x_{i+d/2}, x_i); `signed_sin` contains the sign.
    """
    exact = x.float()
    return (exact * cos).addcmul_(exact.roll(x.shape[-1] // 2, dims=-1), signed_sin).to(x.dtype)
