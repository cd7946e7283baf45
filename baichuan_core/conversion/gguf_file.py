"""Writes a GGUF file: the model's metadata, the vocabulary and the tensors."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from baichuan_core.checkpoint import load_tokenizer
from baichuan_core.checkpoint.parallel_writer import PlacedTensor, write_placed_tensors
from baichuan_core.config import BaichuanConfig

from .gguf_format import Architecture, GgufTensor, GgufType
from .pieces import CONTROL, UNUSED, USER_DEFINED, Piece, read_vocabulary

GGUF_FILE = "model.gguf"
UNMERGEABLE_SCORE = -10_000.0  # score of tokens that merging must never produce
# llama.cpp's names for file types (llama_ftype).
FILE_TYPES = {
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
    "q5_1": "MOSTLY_Q5_1",
    "q5_0": "MOSTLY_Q5_0",
    "q4_1": "MOSTLY_Q4_1",
    "q4_0": "MOSTLY_Q4_0",
}


def write_gguf(
    directory: Path,
    checkpoint: Path,
    config: BaichuanConfig,
    architecture: Architecture,
    tensors: Sequence[GgufTensor],
    gguf_type: GgufType,
    on_bytes: Callable[[int], None],
) -> None:
    """Write `model.gguf` into a directory.

    Args:
        directory: Directory of the file.
        checkpoint: Checkpoint with the tokenizer to include.
        config: Configuration of the model.
        architecture: llama.cpp's name for the architecture.
        tensors: All tensors.
        gguf_type: Type of most tensors.
        on_bytes: Called after each chunk with its size in bytes.

    Raises:
        TokenizerError: The tokenizer is missing, damaged or does not match the model.
    """
    file = directory / GGUF_FILE
    writer = gguf.GGUFWriter(file, architecture)
    _add_model_metadata(writer, config, checkpoint.absolute().name, gguf_type)
    _add_vocabulary(writer, checkpoint, config)
    for tensor in tensors:
        _add_tensor(writer, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    write_placed_tensors(_place_tensors(file, tensors), on_bytes)


def _add_model_metadata(writer: Any, config: BaichuanConfig, name: str, gguf_type: GgufType) -> None:
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[gguf_type]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.model_max_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    if config.position_embedding == "rope":
        rotation = config.rope_parameters or {}
        writer.add_rope_freq_base(rotation["rope_theta"])
        if rotation["rope_type"] == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rotation["factor"])


def _add_vocabulary(writer: Any, checkpoint: Path, config: BaichuanConfig) -> None:
    tokenizer = load_tokenizer(checkpoint)
    vocabulary = read_vocabulary(checkpoint / "tokenizer.model")
    pieces = list(vocabulary.pieces)
    for token_id in range(len(pieces), config.vocab_size):
        if (added := tokenizer.added_tokens_decoder.get(token_id)) is not None:
            pieces.append(Piece(added.content.encode(), UNMERGEABLE_SCORE, CONTROL if added.special else USER_DEFINED))
        else:
            pieces.append(Piece(f"[PAD{token_id}]".encode(), UNMERGEABLE_SCORE, UNUSED))
    writer.add_tokenizer_model("llama")  # llama.cpp's name for SentencePiece BPE with byte fallback
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.text for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([piece.kind for piece in pieces])
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    special = {
        writer.add_bos_token_id: config.bos_token_id,
        writer.add_eos_token_id: ends[0],
        writer.add_unk_token_id: tokenizer.unk_token_id,
        writer.add_pad_token_id: config.pad_token_id,
    }
    for add, token_id in special.items():
        if token_id is not None:
            add(token_id)
    writer.add_add_bos_token(tokenizer.add_bos_token)
    writer.add_add_eos_token(tokenizer.add_eos_token)
    writer.add_add_space_prefix(vocabulary.add_dummy_prefix)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.get_chat_template())


def _add_tensor(writer: Any, tensor: GgufTensor) -> None:
    planned = tensor.planned
    kind = gguf.GGMLQuantizationType[tensor.type.upper()]
    # The writer only distinguishes uint8, the type of quantized tensors, from other types.
    numpy_dtype = np.dtype(np.uint8 if planned.dtype.itemsize == 1 else np.float32)
    writer.add_tensor_info(planned.name, planned.shape, numpy_dtype, planned.nbytes, raw_dtype=kind)


def _place_tensors(file: Path, tensors: Sequence[GgufTensor]) -> list[PlacedTensor]:
    """Place the tensors in order after the header, each at a multiple of GGUF's alignment."""
    pad, alignment = gguf.GGUFWriter.ggml_pad, gguf.GGUF_DEFAULT_ALIGNMENT
    offset = pad(file.stat().st_size, alignment)
    places = []
    for tensor in tensors:
        places.append(PlacedTensor(tensor.planned, file, offset))
        offset += pad(tensor.planned.nbytes, alignment)
    os.truncate(file, offset)
    return places
