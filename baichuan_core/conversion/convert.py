"""Rewrites a checkpoint in another form, one tensor at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from baichuan_core.checkpoint import (
    HEAD,
    TensorReader,
    check_tensors,
    copy_companions,
    read_config,
    require_space,
    staged_output,
    tensor_writer,
)
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError
from baichuan_core.model.head import SMALLEST_NORM
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress

ConversionTarget = Literal["baichuan1", "safetensors"]
TensorChange = Callable[[str, Tensor], Tensor]
ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        target: The form that was asked for.
        tensors: How many tensors were written.
        bytes_before: Size of the weight files that were read.
        bytes_after: Size of the tensors that were written.
    """

    target: ConversionTarget
    tensors: int
    bytes_before: int
    bytes_after: int


def convert(
    checkpoint: Path | str,
    output: Path | str,
    target: ConversionTarget,
    *,
    on_progress: ProgressCallback = ignore_progress,
) -> ConversionReport:
    """Write a checkpoint in another form; the logits stay what they are.

    `baichuan1` divides each row of `lm_head.weight` by its L2 norm, in float32, so that code without a
    normalised head computes the same; `norm_head: false` in the result says that it is done. `safetensors`
    keeps every tensor and changes the files only.

    Args:
        checkpoint: A Baichuan checkpoint directory; never modified.
        output: Directory of the result; must not exist or be empty. It appears only when complete.
        target: The form of the result.
        on_progress: Told after each tensor.

    Raises:
        CheckpointError: The checkpoint is incomplete or damaged, or `output` is taken.
        UnsupportedError: The target is unknown, or the checkpoint has no normalised head to convert.
        InsufficientSpaceError: The disk cannot hold the result.
    """
    if target not in get_args(ConversionTarget):
        raise UnsupportedError(f'target {target!r} is not known: use "baichuan1" or "safetensors"')
    checkpoint, output = Path(checkpoint), Path(output)
    config = read_config(checkpoint)
    change = _change(config, target, checkpoint)
    with TensorReader(checkpoint) as reader:
        check_tensors(reader, config)
        require_space(output, reader.total_bytes)
        with staged_output(output) as staging:
            config.architectures = ["BaichuanForCausalLM"]
            config.save_pretrained(staging)
            copy_companions(checkpoint, staging)
            written = _rewrite(reader, staging, change, on_progress)
        on_progress(Progress(1.0, "converted", {"bytes": float(written)}))
        return ConversionReport(target, len(reader.names), reader.total_bytes, written)


def normalise_rows(weight: Tensor) -> Tensor:
    """Rows of [vocab, hidden] at L2 norm 1, computed in float32, in the dtype of `weight`; zero rows stay zero."""
    norms = torch.linalg.vector_norm(weight, dim=-1, keepdim=True, dtype=torch.float32).clamp(min=SMALLEST_NORM)
    normalised = torch.empty_like(weight)
    for start in range(0, len(weight), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        normalised[rows] = weight[rows] / norms[rows]
    return normalised


def _change(config: BaichuanConfig, target: ConversionTarget, checkpoint: Path) -> TensorChange:
    """What happens to each tensor; enters it into the configuration of the result."""
    match target:
        case "safetensors":
            return lambda _name, tensor: tensor
        case "baichuan1":
            if not config.norm_head:
                raise UnsupportedError(
                    f"{checkpoint} has a plain head (norm_head is false), so it already is in Baichuan 1 form; "
                    'if its head is a normalised one, write "norm_head": true into its config.json'
                )
            if config.tie_word_embeddings:
                raise UnsupportedError(
                    f"{checkpoint} uses its embedding as head (tie_word_embeddings), so the head cannot be normalised "
                    'alone: store a copy of it as lm_head.weight and write "tie_word_embeddings": false'
                )
            config.norm_head = False
            return lambda name, tensor: normalise_rows(tensor) if name == HEAD else tensor


def _rewrite(reader: TensorReader, staging: Path, change: TensorChange, on_progress: ProgressCallback) -> int:
    total = max(reader.total_bytes, 1)
    with tensor_writer(staging, reader.names) as writer:
        for name in reader.names:
            writer.add(name, change(name, reader.read(name)))
            fraction = min(writer.bytes_written / total, 1.0)
            on_progress(Progress(fraction, "converting", {"bytes": float(writer.bytes_written)}))
    return writer.bytes_written
