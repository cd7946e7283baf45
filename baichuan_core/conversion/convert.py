"""Converts a checkpoint to another format, a few rows of a tensor at a time."""

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

from .gguf_format import GgufType
from .plans import (
    ConversionPlan,
    ConversionSource,
    plan_baichuan1,
    plan_dequantization,
    plan_gguf,
    plan_llama,
    plan_merge,
    plan_safetensors,
)

ConversionTarget = Literal["baichuan1", "safetensors", "llama", "gguf", "merged", "dequantized"]


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """Result of a conversion.

    Attributes:
        target: Format of the result.
        tensors: Number of tensors written.
        bytes_before: Size of the weight files read.
        bytes_after: Size of the tensors written.
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
    """Convert a checkpoint to another format, in which the model computes the same results.

    - `safetensors` keeps every tensor and changes only the file format; the published 4-bit format becomes today's.
    - `baichuan1` divides each row of `lm_head.weight` by its L2 norm, in float32, and sets `norm_head` to false, for
      programs that do not support a normalized head.
    - `llama` is for programs that support Llama but not Baichuan (7B only); quantized weights are dequantized.
    - `gguf` writes `model.gguf` for llama.cpp together with the configuration and tokenizer; quantized weights
      are dequantized.
    - `merged` adds a LoRA adapter to the weights of its base model, which may be quantized.
    - `dequantized` dequantizes the weights.

    Only a few chunks of tensors are in memory at a time; as many threads as torch uses compute and write them.

    Args:
        checkpoint: A Baichuan checkpoint directory; it is not modified.
        output: Directory of the result; must be empty or not exist. It appears only when complete.
        target: Format of the result.
        gguf_type: Type of the matrices in a GGUF file; "f16" by default.
        dtype: Dtype of a merged or dequantized checkpoint; "auto" means the dtype of the unquantized tensors.
        adapter: Directory of the adapter to merge.
        on_progress: Called as bytes are written.

    Raises:
        CheckpointError: The checkpoint is incomplete or damaged or contains values that the result cannot represent,
            or `output` is not empty.
        AdapterMismatchError: The adapter was made for another base model.
        TokenizerError: The result includes the tokenizer, but it is missing or damaged.
        UnsupportedError: The target is unknown or impossible for this model, or does not support one of the options.
        InsufficientSpaceError: The disk does not have enough space for the result.
    """
    checkpoint, output, adapter = Path(checkpoint), Path(output), None if adapter is None else Path(adapter)
    _check_options(target, gguf_type, dtype, adapter)
    config = read_config(checkpoint)
    with TensorReader(checkpoint, import_int4=True) as reader:
        source = ConversionSource(checkpoint, config, reader)
        check_tensors(reader, config)
        plan = _make_plan(source, target, gguf_type, dtype, adapter)
        total = sum(tensor.nbytes for tensor in plan.tensors)
        require_space(output, total)
        with staged_output(output) as staging:
            plan.write(staging, _make_byte_counter(total, on_progress))
    on_progress(Progress(1.0, "converted", {"bytes": float(total)}))
    return ConversionReport(target, len(plan.tensors), reader.total_bytes, total)


def _check_options(
    target: ConversionTarget, gguf_type: GgufType | None, dtype: DtypeName, adapter: Path | None
) -> None:
    if target not in get_args(ConversionTarget):
        raise UnsupportedError(f"target {target!r} is unknown: use one of {', '.join(get_args(ConversionTarget))}")
    if gguf_type is not None and target != "gguf":
        raise UnsupportedError(f'gguf_type requires the target "gguf", but the target is "{target}": omit gguf_type')
    if dtype != "auto" and target not in ("merged", "dequantized"):
        raise UnsupportedError(
            f'dtype requires the target "merged" or "dequantized", but the target is "{target}": omit dtype'
        )
    if adapter is not None and target != "merged":
        raise UnsupportedError(f'adapter requires the target "merged", but the target is "{target}": omit adapter')


def _make_plan(
    source: ConversionSource,
    target: ConversionTarget,
    gguf_type: GgufType | None,
    dtype: DtypeName,
    adapter: Path | None,
) -> ConversionPlan:
    match target:
        case "baichuan1":
            return plan_baichuan1(source)
        case "safetensors":
            return plan_safetensors(source)
        case "llama":
            return plan_llama(source)
        case "gguf":
            return plan_gguf(source, gguf_type or "f16")
        case "merged":
            return plan_merge(source, adapter, dtype)
        case "dequantized":
            return plan_dequantization(source, dtype)


def _make_byte_counter(total: int, on_progress: ProgressCallback) -> Callable[[int], None]:
    """Return a callback that adds up the bytes written and reports progress."""
    written = 0

    def on_bytes(count: int) -> None:
        nonlocal written
        written += count
        on_progress(Progress(min(written / max(total, 1), 1.0), "converting", {"bytes": float(written)}))

    return on_bytes
