"""Plans conversions: the tensors of each target and the files that accompany them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from baichuan_core.checkpoint import (
    HEAD,
    HEAD_SCALE,
    DtypeName,
    TensorReader,
    copy_companion_files,
    is_quantized,
)
from baichuan_core.checkpoint.parallel_writer import PlannedTensor
from baichuan_core.checkpoint.planned_checkpoint import write_checkpoint
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError
from baichuan_core.model.chunked_loss import MIN_NORM
from baichuan_core.model.quantization import make_quantization_settings

from .dense import DenseTensors, plan_stored_tensor
from .gguf_format import GgufType, choose_architecture, plan_gguf_tensors
from .llama_format import build_llama_config, plan_llama_tensors
from .merging import AdapterMerger
from .rows import normalize_tensor

ROWS_PER_NORM_BATCH = 64

ByteCallback = Callable[[int], None]


class ConversionSource:
    """The checkpoint to convert."""

    def __init__(self, checkpoint: Path, config: BaichuanConfig, reader: TensorReader) -> None:
        self.checkpoint = checkpoint
        self.config = config
        self.reader = reader
        if reader.imported_int4:
            _update_quantization_config(config, reader)

    def plan_stored_tensors(self) -> list[PlannedTensor]:
        """Return all tensors, to be written as they are stored."""
        return [plan_stored_tensor(self.reader, name) for name in self.reader.names]


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """A conversion that is ready to run.

    Attributes:
        tensors: All tensors to write.
        write: Writes the tensors and the accompanying files into a directory.
    """

    tensors: Sequence[PlannedTensor]
    write: Callable[[Path, ByteCallback], None]


def plan_safetensors(source: ConversionSource) -> ConversionPlan:
    """Return a plan that writes every tensor unchanged."""
    return _plan_baichuan(source, source.plan_stored_tensors())


def plan_baichuan1(source: ConversionSource) -> ConversionPlan:
    """Return a plan that normalizes the output head; in an 8-bit head, only the scales change."""
    config, checkpoint = source.config, source.checkpoint
    if not config.norm_head:
        raise UnsupportedError(
            f"{checkpoint} has a plain head (norm_head is false), so it already has the format of Baichuan 1; "
            "if its head is normalized, set norm_head to true in its config.json"
        )
    if config.tie_word_embeddings:
        raise UnsupportedError(
            f"{checkpoint} uses its embedding as its head (tie_word_embeddings), so the head cannot be normalized "
            "separately: store a copy of the embedding as lm_head.weight and set tie_word_embeddings to false"
        )
    config.norm_head = False
    name = HEAD_SCALE if config.quantize_head else HEAD
    change = (lambda scale: _normalize_scales(scale, source.reader)) if config.quantize_head else normalize_tensor
    tensors = [change(tensor) if tensor.name == name else tensor for tensor in source.plan_stored_tensors()]
    return _plan_baichuan(source, tensors)


def plan_dequantization(source: ConversionSource, dtype: DtypeName) -> ConversionPlan:
    """Return a plan that dequantizes all quantized tensors."""
    if not is_quantized(source.config):
        raise UnsupportedError(f"{source.checkpoint} is not quantized: use the checkpoint as it is")
    dense = DenseTensors(source.reader, source.config, _parse_dtype(dtype))
    tensors = [dense.plan_tensor(name) for name in dense.names]
    _mark_config_as_unquantized(source.config, dense.dtype)
    return _plan_baichuan(source, tensors)


def plan_merge(source: ConversionSource, adapter: Path | None, dtype: DtypeName) -> ConversionPlan:
    """Return a plan that merges an adapter into its base model, which is dequantized first if it is quantized."""
    if adapter is None:
        raise UnsupportedError('the target "merged" requires an adapter: set adapter to its directory')
    dense = DenseTensors(source.reader, source.config, _parse_dtype(dtype))
    tensors = list(AdapterMerger(adapter, source.checkpoint, source.config).merge(dense))
    _mark_config_as_unquantized(source.config, dense.dtype)
    return _plan_baichuan(source, tensors)


def plan_llama(source: ConversionSource) -> ConversionPlan:
    """Return a plan that writes a Llama checkpoint, which loads without this package."""
    dense = DenseTensors(source.reader, source.config)
    config = build_llama_config(source.config, dense.dtype)
    tensors = list(plan_llama_tensors(dense, source.config))

    def write(directory: Path, on_bytes: ByteCallback) -> None:
        from .llama_tokenizer import write_llama_tokenizer  # noqa: PLC0415 - only this target needs `tokenizers`

        config.save_pretrained(directory)
        copy_companion_files(source.checkpoint, directory)
        write_llama_tokenizer(source.checkpoint, directory)
        write_checkpoint(directory, tensors, on_bytes)

    return ConversionPlan(tensors, write)


def plan_gguf(source: ConversionSource, gguf_type: GgufType) -> ConversionPlan:
    """Return a plan that writes one file for llama.cpp, and the configuration and tokenizer that this package needs."""
    if gguf_type not in get_args(GgufType):
        raise UnsupportedError(f"gguf_type {gguf_type!r} is unknown: use one of {', '.join(get_args(GgufType))}")
    name = choose_architecture(source.config)
    dense = DenseTensors(source.reader, source.config)
    tensors = plan_gguf_tensors(dense, source.config, gguf_type)

    def write(directory: Path, on_bytes: ByteCallback) -> None:
        from .gguf_file import write_gguf  # noqa: PLC0415 - only this target needs the package `gguf`

        _mark_config_as_unquantized(source.config, dense.dtype)
        source.config.norm_head = False
        _save_config_and_companion_files(source, directory)
        write_gguf(directory, source.checkpoint, source.config, name, tensors, gguf_type, on_bytes)

    return ConversionPlan([tensor.planned for tensor in tensors], write)


def _plan_baichuan(source: ConversionSource, tensors: Sequence[PlannedTensor]) -> ConversionPlan:
    def write(directory: Path, on_bytes: ByteCallback) -> None:
        _save_config_and_companion_files(source, directory)
        write_checkpoint(directory, tensors, on_bytes)

    return ConversionPlan(tensors, write)


def _save_config_and_companion_files(source: ConversionSource, directory: Path) -> None:
    source.config.architectures = ["BaichuanForCausalLM"]
    source.config.save_pretrained(directory)
    copy_companion_files(source.checkpoint, directory)


def _normalize_scales(scale: PlannedTensor, reader: TensorReader) -> PlannedTensor:
    codes = reader.read(HEAD)

    def compute_rows(start: int, stop: int) -> Tensor:
        # There is one scale per row, so a chunk of scales can span the whole head, which is too large to convert at
        # once.
        batches = codes[start:stop].split(ROWS_PER_NORM_BATCH)
        norms = torch.cat([torch.linalg.vector_norm(batch.float(), dim=-1) for batch in batches])
        return torch.reciprocal(norms.clamp(min=MIN_NORM))

    return replace(scale, rows=compute_rows)


def _update_quantization_config(config: BaichuanConfig, reader: TensorReader) -> None:
    """Replace the published settings of the 4-bit format in the configuration with those used today."""
    stored_settings = getattr(config, "quantization_config", None) or {}
    settings = make_quantization_settings(
        "nf4",
        double_quantization=any(name.endswith(".nested_absmax") for name in reader.names),
        compute_dtype=stored_settings.get("bnb_4bit_compute_dtype", "float16"),
    )
    config.quantization_config = settings.to_dict()


def _mark_config_as_unquantized(config: BaichuanConfig, dtype: torch.dtype) -> None:
    if is_quantized(config):
        del config.quantization_config
    config.quantize_head = False
    config.dtype = dtype


def _parse_dtype(name: DtypeName) -> torch.dtype | None:
    if name == "auto":
        return None
    if name not in get_args(DtypeName):
        raise UnsupportedError(f"dtype {name!r} is unknown: use one of {', '.join(get_args(DtypeName))}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
