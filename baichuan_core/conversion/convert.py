"""Rewrites a checkpoint in another form, some rows of a tensor at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from baichuan_core.checkpoint import (
    DtypeName,
    TensorReader,
    check_tensors,
    read_config,
    require_space,
    staged_output,
)
from baichuan_core.errors import UnsupportedError
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress

from .forms import Plan, Source, baichuan1, dequantized, gguf, llama, merged, safetensors
from .gguf_form import GgufType

ConversionTarget = Literal["baichuan1", "safetensors", "llama", "gguf", "merged", "dequantized"]


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
    dtype: DtypeName = "auto",
    adapter: Path | str | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> ConversionReport:
    """Write a checkpoint in another form that computes the same.

    - `safetensors` keeps every tensor and changes the files only; the published 4-bit form becomes today's.
    - `baichuan1` divides each row of `lm_head.weight` by its L2 norm, in float32, for code without a normalised
      head; `norm_head: false` in the result says that it is done.
    - `llama` is for programs that know Llama and not Baichuan (7B only); quantized weights are restored.
    - `gguf` writes `model.gguf` for llama.cpp, with configuration and tokenizer beside it, likewise.
    - `merged` adds a LoRA adapter to the weights of its base, which may be quantized.
    - `dequantized` restores quantized weights.

    Memory holds a few pieces of tensors at a time; the disk is kept busy by as many threads as torch uses.

    Args:
        checkpoint: A Baichuan checkpoint directory; never modified.
        output: Directory of the result; must not exist or be empty. It appears only when complete.
        target: The form of the result.
        gguf_type: Type of the matrices in a GGUF file, "f16" if not given.
        dtype: Dtype of a merged or dequantized checkpoint, "auto" for that of the tensors beside quantized ones.
        adapter: The adapter to merge, a directory that fine-tuning wrote.
        on_progress: Told as bytes are written.

    Raises:
        CheckpointError: The checkpoint is incomplete or damaged, holds numbers that the result cannot, or
            `output` is taken.
        AdapterMismatchError: The adapter was made for another base.
        TokenizerError: The result carries the tokenizer, which is missing or damaged.
        UnsupportedError: The target is unknown or impossible for this model, or an option does not go with it.
        InsufficientSpaceError: The disk cannot hold the result.
    """
    checkpoint, output, adapter = Path(checkpoint), Path(output), None if adapter is None else Path(adapter)
    _check_options(target, gguf_type, dtype, adapter)
    config = read_config(checkpoint)
    with TensorReader(checkpoint, import_int4=True) as reader:
        source = Source(checkpoint, config, reader)
        check_tensors(reader, config)
        plan = _plan(source, target, gguf_type, dtype, adapter)
        total = sum(tensor.nbytes for tensor in plan.tensors)
        require_space(output, total)
        with staged_output(output) as staging:
            plan.write(staging, _meter(total, on_progress))
    on_progress(Progress(1.0, "converted", {"bytes": float(total)}))
    return ConversionReport(target, len(plan.tensors), reader.total_bytes, total)


def _check_options(
    target: ConversionTarget, gguf_type: GgufType | None, dtype: DtypeName, adapter: Path | None
) -> None:
    if target not in get_args(ConversionTarget):
        raise UnsupportedError(f"target {target!r} is not known: use one of {', '.join(get_args(ConversionTarget))}")
    if gguf_type is not None and target != "gguf":
        raise UnsupportedError(f"gguf_type goes with the target gguf, not with {target}: leave it out")
    if dtype != "auto" and target not in ("merged", "dequantized"):
        raise UnsupportedError(f"dtype goes with the targets merged and dequantized, not with {target}: leave it out")
    if adapter is not None and target != "merged":
        raise UnsupportedError(f"an adapter goes with the target merged, not with {target}: leave it out")


def _plan(
    source: Source,
    target: ConversionTarget,
    gguf_type: GgufType | None,
    dtype: DtypeName,
    adapter: Path | None,
) -> Plan:
    match target:
        case "baichuan1":
            return baichuan1(source)
        case "safetensors":
            return safetensors(source)
        case "llama":
            return llama(source)
        case "gguf":
            return gguf(source, gguf_type or "f16")
        case "merged":
            return merged(source, adapter, dtype)
        case "dequantized":
            return dequantized(source, dtype)


def _meter(total: int, on_progress: ProgressCallback) -> Callable[[int], None]:
    """Adds up what is written and reports it."""
    written = 0

    def on_bytes(count: int) -> None:
        nonlocal written
        written += count
        on_progress(Progress(min(written / max(total, 1), 1.0), "converting", {"bytes": float(written)}))

    return on_bytes
