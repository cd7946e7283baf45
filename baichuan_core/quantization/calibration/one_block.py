"""Runs one block of a model at a time, sublayer by sublayer, with the model's own code."""

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


class SingleBlockDecoder:
    """A decoder with a single block, whose weights can be replaced; masks and rotations are as in the whole model.

    Args:
        config: Configuration of the whole model.
        device: Device to compute on, in float32.
    """

    def __init__(self, config: BaichuanConfig, device: torch.device) -> None:
        settings = deepcopy(config)
        settings.num_hidden_layers = 1
        settings.quantize_head = False
        self._device = device
        with torch.device("meta"):
            self._decoder = BaichuanModel(settings)
            self._block = BaichuanDecoderLayer(self._decoder.config, 0).eval().requires_grad_(requires_grad=False)
        self._decoder.layers[0] = _AttentionSublayer(self._block)
        self._decoder.norm = nn.Identity()  # type: ignore[assignment] # the final norm is not part of a block
        if self._decoder.rotary_emb is not None:
            self._decoder.rotary_emb = BaichuanRotaryEmbedding(settings).to(device)

    def load(self, reader: TensorReader, number: int) -> None:
        """Load the weights of block `number`."""
        weights = {
            name: reader.read(f"model.layers.{number}.{name}").to(self._device, torch.float32, copy=True)
            for name in self._block.state_dict()
        }
        self._block.load_state_dict(weights, assign=True)

    def get_weight(self, layer: str) -> Tensor:
        """Return the weight [out, in] of a layer, such as "mlp.up_proj"."""
        return self._block.get_parameter(f"{layer}.weight").data

    @torch.inference_mode()
    def run_attention(self, states: Tensor) -> Tensor:
        """Return the hidden states [batch, seq, hidden] plus the output of the attention sublayer."""
        after: Tensor = self._decoder(inputs_embeds=states, use_cache=False).last_hidden_state
        return after

    @torch.inference_mode()
    def run_mlp(self, states: Tensor) -> Tensor:
        """Return the hidden states after attention [batch, seq, hidden] plus the output of the MLP sublayer."""
        after: Tensor = states + self._block.mlp(self._block.post_attention_layernorm(states))
        return after

    def run_sublayer(self, layer: str, states: Tensor) -> Tensor:
        """Run the sublayer (attention or MLP) that contains `layer`."""
        return self.run_attention(states) if layer.startswith("self_attn") else self.run_mlp(states)

    def compute_inputs(self, layer: str, states: Tensor) -> Tensor:
        """Return the inputs of a layer, [batch · seq, in], given the hidden states before its sublayer.

        The forward pass stops at the layer.
        """
        seen: list[Tensor] = []

        def stop_at_layer(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen.append(arguments[0].flatten(0, -2))
            raise _InputsCapturedError

        handle = self._block.get_submodule(layer).register_forward_pre_hook(stop_at_layer)
        try:
            with suppress(_InputsCapturedError):
                self.run_sublayer(layer, states)
        finally:
            handle.remove()
        return seen[0]


class _InputsCapturedError(Exception):
    """Internal exception that stops a forward pass once the inputs of a layer are known."""


class _AttentionSublayer(nn.Module):
    """Stand-in for the decoder's block that runs only attention, with the decoder's mask and rotation."""

    def __init__(self, block: BaichuanDecoderLayer) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        attended, _ = self.block.self_attn(self.block.input_layernorm(hidden_states), **arguments)
        after: Tensor = hidden_states + attended
        return after
