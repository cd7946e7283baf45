"""One block of a model at a time, in its two halves, computed by the model's own code."""

from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from baichuan_core.checkpoint import TensorReader
from baichuan_core.config import BaichuanConfig
from baichuan_core.model import BaichuanModel
from baichuan_core.model.layers import BaichuanDecoderLayer
from baichuan_core.model.positions import BaichuanRotaryEmbedding


class OneBlock:
    """A decoder of one block, whose weights are exchanged; masks and rotations are made as for the whole model.

    Args:
        config: Of the whole model.
        device: Where it computes, in float32.
    """

    def __init__(self, config: BaichuanConfig, device: torch.device) -> None:
        settings = deepcopy(config)
        settings.num_hidden_layers = 1
        settings.quantize_head = False
        self._device = device
        with torch.device("meta"):
            self._decoder = BaichuanModel(settings)
            self._block = BaichuanDecoderLayer(self._decoder.config, 0).eval().requires_grad_(requires_grad=False)
        self._decoder.layers[0] = _AttentionHalf(self._block)
        self._decoder.norm = nn.Identity()  # type: ignore[assignment] # its weight belongs to the end of the model
        if self._decoder.rotary_emb is not None:
            self._decoder.rotary_emb = BaichuanRotaryEmbedding(settings).to(device)

    def load(self, reader: TensorReader, number: int) -> None:
        """Take the weights of block `number`."""
        weights = {
            name: reader.read(f"model.layers.{number}.{name}").to(self._device, torch.float32, copy=True)
            for name in self._block.state_dict()
        }
        self._block.load_state_dict(weights, assign=True)

    def weight(self, layer: str) -> Tensor:
        """Weight [out, in] of a layer, e.g. "mlp.up_proj"."""
        return self._block.get_parameter(f"{layer}.weight").data

    @torch.inference_mode()
    def attend(self, states: Tensor) -> Tensor:
        """The first half: hidden states [batch, seq, hidden] plus attention."""
        after: Tensor = self._decoder(inputs_embeds=states, use_cache=False).last_hidden_state
        return after

    @torch.inference_mode()
    def feed_forward(self, states: Tensor) -> Tensor:
        """The second half: hidden states [batch, seq, hidden] after attention plus feed-forward."""
        after: Tensor = states + self._block.mlp(self._block.post_attention_layernorm(states))
        return after

    def half_of(self, layer: str, states: Tensor) -> Tensor:
        """The half that a layer is in."""
        return self.attend(states) if layer.startswith("self_attn") else self.feed_forward(states)

    def inputs(self, layer: str, states: Tensor) -> Tensor:
        """What a layer computes on, [batch · seq, in], from the states before its half; the rest is not computed."""
        seen: list[Tensor] = []

        def stop(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen.append(arguments[0].flatten(0, -2))
            raise _EnoughError

        handle = self._block.get_submodule(layer).register_forward_pre_hook(stop)
        try:
            with suppress(_EnoughError):
                self.half_of(layer, states)
        finally:
            handle.remove()
        return seen[0]


class _EnoughError(Exception):
    """Ends a forward pass whose rest is not needed."""


class _AttentionHalf(nn.Module):
    """Stands for a block in the decoder, which gives it mask and rotation."""

    def __init__(self, block: BaichuanDecoderLayer) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        attended, _ = self.block.self_attn(self.block.input_layernorm(hidden_states), **arguments)
        after: Tensor = hidden_states + attended
        return after
