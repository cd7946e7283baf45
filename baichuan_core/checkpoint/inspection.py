"""Summarizes a checkpoint directory from its configuration and file headers, without loading weights."""

import math
from dataclasses import dataclass
from pathlib import Path

from checkpoint_files.layout import SCALES, expected_tensors

from .companions import read_config
from .reader import TensorReader
from .validation import check_tensors, is_quantized


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """Sizes and properties of a checkpoint.

    Attributes:
        position_embedding: "rope" or "alibi".
        norm_head: Whether the output head is normalized.
        parameters: Number of parameters of the model, whether or not it is quantized.
        weight_bytes: Size of the weight files.
        quantization: "int8", "nf4" or "fp4"; None if the checkpoint is not quantized.
        has_tokenizer: Whether the directory has a `tokenizer.model`.
    """

    position_embedding: str
    norm_head: bool
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    context_length: int
    parameters: int
    weight_bytes: int
    quantization: str | None
    has_tokenizer: bool


def inspect_checkpoint(checkpoint: Path | str) -> CheckpointSummary:
    """Check that a directory contains a complete Baichuan checkpoint, and summarize it.

    Raises:
        CheckpointError: Loading would fail for the same reason; the message names the file or tensor and the remedy.
    """
    checkpoint = Path(checkpoint)
    config = read_config(checkpoint)
    with TensorReader(checkpoint) as reader:
        check_tensors(reader, config)
        weight_bytes = reader.total_bytes
    return CheckpointSummary(
        position_embedding=str(config.position_embedding),
        norm_head=bool(config.norm_head),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        context_length=config.model_max_length or 0,
        parameters=sum(math.prod(shape) for name, shape in expected_tensors(config).items() if name not in SCALES),
        weight_bytes=weight_bytes,
        quantization=_describe_quantization(config.quantization_config) if is_quantized(config) else None,
        has_tokenizer=(checkpoint / "tokenizer.model").is_file(),
    )


def _describe_quantization(settings: dict[str, object]) -> str:
    return "int8" if settings.get("load_in_8bit") else str(settings.get("bnb_4bit_quant_type", "unknown"))
