"""Rewrites a checkpoint in another form, one tensor at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from baichuan_core.checkpoint import (
    HEAD,
    TensorReader,
    check_tensors,
    copy_companions,
    is_quantized,
    read_config,
    require_space,
    staged_output,
    tensor_writer,
)
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress

from .dense import DenseTensors
from .gguf_form import GgufType, architecture, gguf_tensors
from .rows import normalise_rows

ConversionTarget = Literal["baichuan1", "safetensors", "gguf"]
TensorChange = Callable[[str, Tensor], Tensor]


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
    gguf_type: GgufType | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> ConversionReport:
    """Write a checkpoint in another form; the logits stay what they are.

    `baichuan1` divides each row of `lm_head.weight` by its L2 norm, in float32, so that code without a
    normalised head computes the same; `norm_head: false` in the result says that it is done. `safetensors`
    keeps every tensor and changes the files only. `gguf` writes `model.gguf` for llama.cpp, the head normalised,
    with configuration and tokenizer beside it.

    Args:
        checkpoint: A Baichuan checkpoint directory; never modified.
        output: Directory of the result; must not exist or be empty. It appears only when complete.
        target: The form of the result.
        gguf_type: Type of the matrices of a GGUF file, "f16" if not given.
        on_progress: Told after each tensor.

    Raises:
        CheckpointError: The checkpoint is incomplete or damaged, or `output` is taken.
        UnsupportedError: The target is unknown, or the checkpoint has no normalised head to convert.
        InsufficientSpaceError: The disk cannot hold the result.
    """
    if target not in get_args(ConversionTarget):
        raise UnsupportedError(f'target {target!r} is not known: use "baichuan1", "safetensors" or "gguf"')
    checkpoint, output = Path(checkpoint), Path(output)
    config = read_config(checkpoint)
    if target == "gguf":
        return _convert_to_gguf(checkpoint, output, config, gguf_type or "f16", on_progress)
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


def _convert_to_gguf(
    checkpoint: Path, output: Path, config: BaichuanConfig, gguf_type: GgufType, on_progress: ProgressCallback
) -> ConversionReport:
    name = architecture(config)
    if is_quantized(config):
        raise UnsupportedError(f"{checkpoint} is quantized: convert the model it was made from")
    with TensorReader(checkpoint) as reader:
        check_tensors(reader, config)
        tensors = gguf_tensors(DenseTensors(reader), config, gguf_type)
        total = sum(tensor.planned.nbytes for tensor in tensors)
        require_space(output, total)
        written = 0

        def on_bytes(count: int) -> None:
            nonlocal written
            written += count
            on_progress(Progress(min(written / total, 1.0), "converting", {"bytes": float(written)}))

        with staged_output(output) as staging:
            from .gguf_file import write_gguf  # noqa: PLC0415 - only this target needs the package

            config.architectures = ["BaichuanForCausalLM"]
            config.norm_head = False
            config.save_pretrained(staging)
            copy_companions(checkpoint, staging)
            write_gguf(staging, checkpoint, config, name, tensors, gguf_type, on_bytes)
        on_progress(Progress(1.0, "converted", {"bytes": float(written)}))
        return ConversionReport("gguf", len(tensors), reader.total_bytes, written)


def _change(config: BaichuanConfig, target: Literal["baichuan1", "safetensors"], checkpoint: Path) -> TensorChange:
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
