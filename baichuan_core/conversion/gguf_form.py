"""How a Baichuan model has to stand in a GGUF file, so that llama.cpp computes what it computes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from baichuan_core.checkpoint import EMBEDDING, FINAL_NORM, HEAD
from baichuan_core.checkpoint.parallel_writer import PlannedTensor
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError

from .dense import DenseTensors
from .rows import cast, normalised, part, require_finite

GgufType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
Architecture = Literal["baichuan", "llama"]
FLOATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
SMALL_TYPES = ("q5_1", "q5_0", "q4_1", "q4_0")
BLOCK = 32  # values under one scale in all of GGUF's legacy quantizations
# llama.cpp's src/models/baichuan.cpp knows the families by their depth alone; any other gets no positions at all.
ROPE_LAYERS, ALIBI_LAYERS = 32, 40
OF_A_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of a GGUF file: its bytes, and its type there."""

    planned: PlannedTensor
    type: GgufType


def architecture(config: BaichuanConfig) -> Architecture:
    """Under which name llama.cpp computes this model right.

    Raises:
        UnsupportedError: Under none; the message gives the reason.
    """
    if config.hidden_act != "silu":
        raise UnsupportedError(f"llama.cpp computes SiLU where this model has {config.hidden_act}: it has no GGUF form")
    if config.position_embedding == "alibi":
        if config.num_hidden_layers != ALIBI_LAYERS:
            raise UnsupportedError(
                f"llama.cpp knows Baichuan models with ALiBi by their {ALIBI_LAYERS} layers and would compute one of "
                f"{config.num_hidden_layers} without any positions: only models of the 13B depth have a GGUF form"
            )
        return "baichuan"
    kind = (config.rope_parameters or {}).get("rope_type")
    if kind not in ("default", "linear"):
        raise UnsupportedError(f'rope_type {kind!r} has no GGUF form here: only "default" and "linear" have')
    return "baichuan" if config.num_hidden_layers == ROPE_LAYERS else "llama"


def gguf_tensors(source: DenseTensors, config: BaichuanConfig, gguf_type: GgufType) -> list[GgufTensor]:
    """All tensors of the file; the head is normalised if the model normalises it.

    Norms are float32. Beside blocks of 4 or 5 bits, embedding and head have 8.

    Raises:
        UnsupportedError: Rows that do not divide into the blocks of a quantized type.
    """
    of_ends: GgufType = "q8_0" if gguf_type in SMALL_TYPES else gguf_type
    return [
        _stored(tensor, of_ends if tensor.name in ("token_embd.weight", "output.weight") else gguf_type)
        for tensor in _renamed(source, config)
    ]


def _renamed(source: DenseTensors, config: BaichuanConfig) -> Iterator[PlannedTensor]:
    yield replace(source.exact(EMBEDDING), name="token_embd.weight")
    for block in range(config.num_hidden_layers):
        ours, theirs = f"model.layers.{block}", f"blk.{block}"
        packed = source.exact(f"{ours}.self_attn.W_pack.weight")
        for number, letter in enumerate("qkv"):
            tensor = part(packed, f"{theirs}.attn_{letter}.weight", number, 3)
            rotated = config.position_embedding == "rope" and letter != "v"
            yield _pairs_side_by_side(tensor, config.head_dim) if rotated else tensor
        for mine, name in OF_A_BLOCK.items():
            yield replace(source.exact(f"{ours}.{mine}.weight"), name=f"{theirs}.{name}.weight")
    yield replace(source.exact(FINAL_NORM), name="output_norm.weight")
    head = source.exact(EMBEDDING if config.tie_word_embeddings else HEAD)
    head = normalised(cast(head, torch.float32)) if config.norm_head else head
    yield replace(head, name="output.weight")


def _pairs_side_by_side(tensor: PlannedTensor, head_dim: int) -> PlannedTensor:
    """Queries or keys for a rotation of neighbouring dimensions, where ours rotates halves of a head."""
    order = torch.arange(tensor.shape[0]).view(-1, 2, head_dim // 2).transpose(1, 2).reshape(-1)

    def rows(start: int, stop: int) -> Tensor:
        wanted = order[start:stop]
        first = int(wanted.min())
        return tensor.rows(first, int(wanted.max()) + 1)[wanted - first]

    return replace(tensor, rows=rows)


def _stored(tensor: PlannedTensor, gguf_type: GgufType) -> GgufTensor:
    if len(tensor.shape) == 1:
        return GgufTensor(cast(tensor, torch.float32), "f32")
    if gguf_type in FLOATS:
        return GgufTensor(cast(tensor, FLOATS[gguf_type]), gguf_type)
    return GgufTensor(_quantized(tensor, gguf_type), gguf_type)


def _quantized(tensor: PlannedTensor, gguf_type: GgufType) -> PlannedTensor:
    import gguf  # noqa: PLC0415 - only these conversions need it

    if tensor.shape[1] % BLOCK:
        raise UnsupportedError(
            f"{tensor.name} has rows of {tensor.shape[1]} values, and {gguf_type} needs a multiple of {BLOCK}: "
            'use the type "f16" or "bf16"'
        )
    kind: Any = gguf.GGMLQuantizationType[gguf_type.upper()]
    shape = gguf.quant_shape_to_byte_shape(tensor.shape, kind)

    def rows(start: int, stop: int) -> Tensor:
        numbers = tensor.rows(start, stop).float()
        require_finite(numbers, tensor.name)
        return torch.from_numpy(np.ascontiguousarray(gguf.quantize(numbers.numpy(), kind)))

    return replace(tensor, dtype=torch.uint8, shape=shape, rows=rows)
