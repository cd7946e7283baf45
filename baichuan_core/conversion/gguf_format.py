"""Arranges the tensors of a Baichuan model for a GGUF file, so that llama.cpp computes the same results."""

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
from .rows import cast_tensor, normalize_tensor, require_finite, select_stacked_matrix

GgufType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
Architecture = Literal["baichuan", "llama"]
FLOAT_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
FOUR_AND_FIVE_BIT_TYPES = ("q5_1", "q5_0", "q4_1", "q4_0")
BLOCK_SIZE = 32  # number of values that share one scale in each of GGUF's legacy quantizations
# llama.cpp's src/models/baichuan.cpp tells RoPE and ALiBi models apart only by the number of layers. With any other
# number of layers, it runs the model without a position embedding.
ROPE_LAYERS, ALIBI_LAYERS = 32, 40
GGUF_BLOCK_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of a GGUF file, with its GGUF type."""

    planned: PlannedTensor
    type: GgufType


def choose_architecture(config: BaichuanConfig) -> Architecture:
    """Return the llama.cpp architecture that runs this model correctly.

    Raises:
        UnsupportedError: llama.cpp cannot run this model correctly; the message states the reason.
    """
    if config.hidden_act != "silu":
        raise UnsupportedError(
            f"hidden_act is {config.hidden_act}, but llama.cpp always computes SiLU: use this model without llama.cpp"
        )
    if config.position_embedding == "alibi":
        if config.num_hidden_layers != ALIBI_LAYERS:
            raise UnsupportedError(
                f"this model uses ALiBi and has {config.num_hidden_layers} layers, but llama.cpp supports ALiBi only "
                f"in Baichuan models with {ALIBI_LAYERS} layers: use this model without llama.cpp"
            )
        return "baichuan"
    kind = (config.rope_parameters or {}).get("rope_type")
    if kind not in ("default", "linear"):
        raise UnsupportedError(
            f'rope_type is {kind!r}, but only "default" and "linear" can be converted to GGUF: '
            "use this model without llama.cpp"
        )
    return "baichuan" if config.num_hidden_layers == ROPE_LAYERS else "llama"


def plan_gguf_tensors(source: DenseTensors, config: BaichuanConfig, gguf_type: GgufType) -> list[GgufTensor]:
    """Return all tensors of the GGUF file; the head is already normalized if the model normalizes it.

    Norms are stored in float32. If the blocks have a 4- or 5-bit type, the embedding and the head are stored in 8 bits.

    Raises:
        UnsupportedError: The width of a matrix is not a multiple of the block size of a quantized type.
    """
    vocabulary_type: GgufType = "q8_0" if gguf_type in FOUR_AND_FIVE_BIT_TYPES else gguf_type
    return [
        _convert_tensor(tensor, vocabulary_type if tensor.name in ("token_embd.weight", "output.weight") else gguf_type)
        for tensor in _rename_tensors(source, config)
    ]


def _rename_tensors(source: DenseTensors, config: BaichuanConfig) -> Iterator[PlannedTensor]:
    yield replace(source.plan_exact_tensor(EMBEDDING), name="token_embd.weight")
    for block in range(config.num_hidden_layers):
        ours, theirs = f"model.layers.{block}", f"blk.{block}"
        packed = source.plan_exact_tensor(f"{ours}.self_attn.W_pack.weight")
        for number, letter in enumerate("qkv"):
            tensor = select_stacked_matrix(packed, f"{theirs}.attn_{letter}.weight", number, 3)
            rotated = config.position_embedding == "rope" and letter != "v"
            yield _interleave_halves(tensor, config.head_dim) if rotated else tensor
        for our_name, gguf_name in GGUF_BLOCK_NAMES.items():
            yield replace(source.plan_exact_tensor(f"{ours}.{our_name}.weight"), name=f"{theirs}.{gguf_name}.weight")
    yield replace(source.plan_exact_tensor(FINAL_NORM), name="output_norm.weight")
    head = source.plan_exact_tensor(EMBEDDING if config.tie_word_embeddings else HEAD)
    head = normalize_tensor(cast_tensor(head, torch.float32)) if config.norm_head else head
    yield replace(head, name="output.weight")


def _interleave_halves(tensor: PlannedTensor, head_dim: int) -> PlannedTensor:
    """Reorder the rows of queries or keys: GGUF rotates dimensions (2i, 2i+1) of a head; we rotate (i, i + d/2)."""
    order = torch.arange(tensor.shape[0]).view(-1, 2, head_dim // 2).transpose(1, 2).reshape(-1)

    def compute_rows(start: int, stop: int) -> Tensor:
        selected = order[start:stop]
        first = int(selected.min())
        return tensor.rows(first, int(selected.max()) + 1)[selected - first]

    return replace(tensor, rows=compute_rows)


def _convert_tensor(tensor: PlannedTensor, gguf_type: GgufType) -> GgufTensor:
    if len(tensor.shape) == 1:
        return GgufTensor(cast_tensor(tensor, torch.float32), "f32")
    if gguf_type in FLOAT_DTYPES:
        return GgufTensor(cast_tensor(tensor, FLOAT_DTYPES[gguf_type]), gguf_type)
    return GgufTensor(_quantize_tensor(tensor, gguf_type), gguf_type)


def _quantize_tensor(tensor: PlannedTensor, gguf_type: GgufType) -> PlannedTensor:
    import gguf  # noqa: PLC0415 - only these conversions need it

    if tensor.shape[1] % BLOCK_SIZE:
        raise UnsupportedError(
            f"{tensor.name} has rows of {tensor.shape[1]} values, but {gguf_type} requires a multiple of {BLOCK_SIZE}: "
            'use the type "f16" or "bf16"'
        )
    kind: Any = gguf.GGMLQuantizationType[gguf_type.upper()]
    shape = gguf.quant_shape_to_byte_shape(tensor.shape, kind)

    def compute_rows(start: int, stop: int) -> Tensor:
        values = tensor.rows(start, stop).float()
        require_finite(values, tensor.name)
        return torch.from_numpy(np.ascontiguousarray(gguf.quantize(values.numpy(), kind)))

    return replace(tensor, dtype=torch.uint8, shape=shape, rows=compute_rows)
