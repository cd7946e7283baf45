"""Model directories that pass the checks at registration, written without torch."""

import json
import os
import struct
from math import prod
from pathlib import Path
from typing import Any

from checkpoint_files.layout import expected_tensors, linear_layers
from checkpoint_files.model_fields import ModelFields
from checkpoint_files.tensors import stored_endings

CONFIG: dict[str, Any] = {
    "model_type": "baichuan",
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "norm_head": False,
}


def write_model_files(folder: Path, **config: Any) -> None:
    """Write a checkpoint whose weights are zeros and whose tokenizer has three pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = CONFIG | config
    (folder / "config.json").write_text(json.dumps(fields))
    write_pieces(folder / "tokenizer.model", "<unk>", "<s>", "</s>")
    sizes = ModelFields.from_config(fields)
    shapes = expected_tensors(sizes)
    if settings := fields.get("quantization_config"):
        double = settings.get("bnb_4bit_use_double_quant", False)
        endings = stored_endings(settings.get("bnb_4bit_quant_type", "int8"), double_quantization=double)
        layers = [name.removesuffix(".weight") for name in linear_layers(sizes)]
        shapes |= {f"{layer}.{ending}": (1,) for layer in layers for ending in endings}
    write_zeros(folder / "model.safetensors", shapes)


def write_pieces(file: Path, *pieces: str) -> None:
    """Write a SentencePiece model with short tokens only."""
    texts = [piece.encode() for piece in pieces]
    file.write_bytes(b"".join(bytes([0x0A, len(text) + 2, 0x0A, len(text)]) + text for text in texts))


def write_zeros(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of bfloat16 zeros as a sparse file, which takes no disk space."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(file, 8 + len(header) + end)
