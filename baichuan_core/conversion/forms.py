"""Of each target: which tensors it has and which files lie beside them."""

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
    copy_companions,
    is_quantized,
)
from baichuan_core.checkpoint.parallel_writer import PlannedTensor
from baichuan_core.checkpoint.planned_checkpoint import write_checkpoint
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError
from baichuan_core.model.chunked_loss import MIN_NORM
from baichuan_core.model.quantization import quantization_settings

from .dense import DenseTensors, stored
from .gguf_form import GgufType, architecture, gguf_tensors
from .llama_form import llama_config, llama_tensors
from .merging import Adapter
from .rows import normalised

ROWS_AT_ONCE = 64

OnBytes = Callable[[int], None]


class Source:
    """A checkpoint that is converted."""

    def __init__(self, checkpoint: Path, config: BaichuanConfig, reader: TensorReader) -> None:
        self.checkpoint = checkpoint
        self.config = config
        self.reader = reader
        if reader.imported_int4:
            _declare_imported(config, reader)

    def stored(self) -> list[PlannedTensor]:
        """All tensors as they are in the files."""
        return [stored(self.reader, name) for name in self.reader.names]


@dataclass(frozen=True, slots=True)
class Plan:
    """A conversion that can be carried out.

    Attributes:
        tensors: All that will be written.
        write: Writes them and what belongs to them into a directory.
    """

    tensors: Sequence[PlannedTensor]
    write: Callable[[Path, OnBytes], None]


def safetensors(source: Source) -> Plan:
    """Every tensor as it is."""
    return _baichuan(source, source.stored())


def baichuan1(source: Source) -> Plan:
    """The head normalised; of one in 8 bits, the scales are what changes."""
    config, checkpoint = source.config, source.checkpoint
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
    name = HEAD_SCALE if config.quantize_head else HEAD
    change = (lambda scale: _scales_of_norm_one(scale, source.reader)) if config.quantize_head else normalised
    return _baichuan(source, [change(tensor) if tensor.name == name else tensor for tensor in source.stored()])


def dequantized(source: Source, dtype: DtypeName) -> Plan:
    """Quantized tensors restored."""
    if not is_quantized(source.config):
        raise UnsupportedError(f"{source.checkpoint} is not quantized: there is nothing to restore")
    dense = DenseTensors(source.reader, source.config, _dtype(dtype))
    tensors = [dense.tensor(name) for name in dense.names]
    _declare_dense(source.config, dense.dtype)
    return _baichuan(source, tensors)


def merged(source: Source, adapter: Path | None, dtype: DtypeName) -> Plan:
    """An adapter added to its base, whose quantized tensors are restored."""
    if adapter is None:
        raise UnsupportedError("the target merged needs an adapter: give its directory")
    dense = DenseTensors(source.reader, source.config, _dtype(dtype))
    tensors = list(Adapter(adapter, source.checkpoint, source.config).tensors(dense))
    _declare_dense(source.config, dense.dtype)
    return _baichuan(source, tensors)


def llama(source: Source) -> Plan:
    """Under Llama's names, with a configuration and a tokenizer that need nothing of ours."""
    dense = DenseTensors(source.reader, source.config)
    config = llama_config(source.config, dense.dtype)
    tensors = list(llama_tensors(dense, source.config))

    def write(directory: Path, on_bytes: OnBytes) -> None:
        from .llama_tokenizer import write_llama_tokenizer  # noqa: PLC0415 - only this target needs `tokenizers`

        config.save_pretrained(directory)
        copy_companions(source.checkpoint, directory)
        write_llama_tokenizer(source.checkpoint, directory)
        write_checkpoint(directory, tensors, on_bytes)

    return Plan(tensors, write)


def gguf(source: Source, gguf_type: GgufType) -> Plan:
    """One file for llama.cpp; beside it what this package needs to make and read token ids."""
    if gguf_type not in get_args(GgufType):
        raise UnsupportedError(f"gguf_type {gguf_type!r} is not known: use one of {', '.join(get_args(GgufType))}")
    name = architecture(source.config)
    dense = DenseTensors(source.reader, source.config)
    tensors = gguf_tensors(dense, source.config, gguf_type)

    def write(directory: Path, on_bytes: OnBytes) -> None:
        from .gguf_file import write_gguf  # noqa: PLC0415 - only this target needs the package `gguf`

        _declare_dense(source.config, dense.dtype)
        source.config.norm_head = False
        _save_config(source, directory)
        write_gguf(directory, source.checkpoint, source.config, name, tensors, gguf_type, on_bytes)

    return Plan([tensor.planned for tensor in tensors], write)


def _baichuan(source: Source, tensors: Sequence[PlannedTensor]) -> Plan:
    def write(directory: Path, on_bytes: OnBytes) -> None:
        _save_config(source, directory)
        write_checkpoint(directory, tensors, on_bytes)

    return Plan(tensors, write)


def _save_config(source: Source, directory: Path) -> None:
    source.config.architectures = ["BaichuanForCausalLM"]
    source.config.save_pretrained(directory)
    copy_companions(source.checkpoint, directory)


def _scales_of_norm_one(scale: PlannedTensor, reader: TensorReader) -> PlannedTensor:
    codes = reader.read(HEAD)

    def rows(start: int, stop: int) -> Tensor:
        # One scale a row: a piece of them is the whole head, too much to hold as floats at once.
        few = codes[start:stop].split(ROWS_AT_ONCE)
        norms = torch.cat([torch.linalg.vector_norm(some.float(), dim=-1) for some in few])
        return torch.reciprocal(norms.clamp(min=MIN_NORM))

    return replace(scale, rows=rows)


def _declare_imported(config: BaichuanConfig, reader: TensorReader) -> None:
    """The published 4-bit form as transformers describes it today."""
    held = getattr(config, "quantization_config", None) or {}
    settings = quantization_settings(
        "nf4",
        double_quantization=any(name.endswith(".nested_absmax") for name in reader.names),
        compute_dtype=held.get("bnb_4bit_compute_dtype", "float16"),
    )
    config.quantization_config = settings.to_dict()


def _declare_dense(config: BaichuanConfig, dtype: torch.dtype) -> None:
    if is_quantized(config):
        del config.quantization_config
    config.quantize_head = False
    config.dtype = dtype


def _dtype(name: DtypeName) -> torch.dtype | None:
    if name == "auto":
        return None
    if name not in get_args(DtypeName):
        raise UnsupportedError(f"dtype {name!r} is not known: use one of {', '.join(get_args(DtypeName))}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
