"""Reads the weights of a checkpoint as floats, a few rows at a time, whether or not they are quantized."""

import json
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baichuan_core.checkpoint import (
    EMBEDDING,
    EMBEDDING_SCALE,
    FINAL_NORM,
    HEAD,
    HEAD_SCALE,
    TensorReader,
    is_quantized,
)
from baichuan_core.checkpoint.parallel_writer import PlannedTensor
from baichuan_core.checkpoint.quantized_weights import dequantize_embedding_or_head
from baichuan_core.checkpoint.rows_in_file import RowReader
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError
from baichuan_core.model.eight_bits import dequantize_rows
from checkpoint_files.layout import expected_tensors, linear_layers

from .rows import cast_tensor

SCALE_NAMES = {EMBEDDING: EMBEDDING_SCALE, HEAD: HEAD_SCALE}


def plan_stored_tensor(reader: TensorReader, name: str) -> PlannedTensor:
    """Return a tensor to be written exactly as it is stored."""
    tensor = reader.read(name)
    return PlannedTensor(name, tensor.dtype, tuple(tensor.shape), reader.make_row_reader(name))


class DenseTensors:
    """The tensors of a model, dequantized if they are quantized.

    Args:
        reader: Reader of a checkpoint with all tensors that its configuration requires; must stay open while rows are
            read.
        config: Configuration of the checkpoint.
        dtype: Dtype of all tensors; by default, that of the unquantized tensors in the checkpoint.
    """

    def __init__(self, reader: TensorReader, config: BaichuanConfig, dtype: torch.dtype | None = None) -> None:
        self._reader = reader
        self._config = config
        self._requested_dtype = dtype
        self._linear = linear_layers(config)
        self._stored_names = dict.fromkeys(reader.names)

    @cached_property
    def names(self) -> list[str]:
        """Names of all tensors, in file order."""
        expected = expected_tensors(self._config)
        return [name for name in self._stored_names if name in expected and name not in SCALE_NAMES.values()]

    @cached_property
    def dtype(self) -> torch.dtype:
        """Dtype of the dequantized tensors."""
        return self._requested_dtype or self._reader.read(FINAL_NORM).dtype

    def plan_tensor(self, name: str) -> PlannedTensor:
        """Return one tensor in the requested dtype; raise the same errors as `plan_exact_tensor`."""
        exact = self.plan_exact_tensor(name)
        is_stored = exact.dtype == self._reader.read(name).dtype
        return exact if is_stored and self._requested_dtype is None else cast_tensor(exact, self.dtype)

    def plan_exact_tensor(self, name: str) -> PlannedTensor:
        """Return one tensor in float32 if it is quantized, otherwise as it is stored.

        Raises:
            CheckpointError: The quantization state of the tensor is missing or damaged.
        """
        rows = self._find_dequantizer(name)
        if rows is None:
            return plan_stored_tensor(self._reader, name)
        shape = self._linear.get(name) or self._reader.shape(name)
        return PlannedTensor(name, torch.float32, shape, rows)

    def _find_dequantizer(self, name: str) -> RowReader | None:
        """Return a function that computes float32 rows of a quantized tensor; return None for an unquantized one."""
        if name in SCALE_NAMES and self._config.quantize_head:
            codes, scale = self._reader.read(name), self._reader.read(SCALE_NAMES[name])
            return lambda start, stop: dequantize_embedding_or_head(codes[start:stop], scale[start:stop])
        if name not in self._linear or not is_quantized(self._config):
            return None
        layer = name.removesuffix(".weight")
        if f"{layer}.SCB" in self._stored_names:
            codes, absmax = self._reader.read(name), self._reader.read(f"{layer}.SCB")
            return lambda start, stop: dequantize_rows(codes[start:stop], absmax[start:stop])
        return FourBitMatrix(self._reader, name).compute_rows


class FourBitMatrix:
    """Matrix in bitsandbytes' 4-bit format (Dettmers et al. 2023, arXiv 2305.14314), dequantized block by block."""

    def __init__(self, reader: TensorReader, name: str) -> None:
        state = _read_quant_state(reader, name)
        self._width = int(state["shape"][1])
        self._block = int(state["blocksize"])
        self._codes = reader.read(name).reshape(-1).numpy()
        self._absmax = reader.read(f"{name}.absmax")
        book = reader.read(f"{name}.quant_map").float().numpy()
        # Table of the two values that each byte encodes; the high bits encode the first one.
        pairs = np.arange(256)
        self._pairs = np.stack((book[pairs >> 4], book[pairs & 15]), axis=1)
        self._nested: tuple[Tensor, Tensor, int, float] | None = None
        if "nested_offset" in state:
            absmax, book2 = reader.read(f"{name}.nested_absmax"), reader.read(f"{name}.nested_quant_map")
            self._nested = (absmax.float(), book2.float(), int(state["nested_blocksize"]), state["nested_offset"])

    def compute_rows(self, start: int, stop: int) -> Tensor:
        """Dequantize rows `start` to `stop` to float32 [stop - start, in]."""
        first, last = start * self._width, stop * self._width
        begin, end = first // self._block, -(-last // self._block)
        values = self._pairs[self._codes[begin * self._block // 2 : end * self._block // 2]].reshape(-1)
        scales = self._compute_absmax(begin, end).repeat_interleave(self._block)[: values.size]
        dequantized = torch.from_numpy(values).mul_(scales)
        offset = first - begin * self._block
        return dequantized[offset : offset + last - first].view(stop - start, self._width)

    def _compute_absmax(self, begin: int, end: int) -> Tensor:
        """Return the absmax of blocks `begin` to `end`, float32."""
        absmax = self._absmax[begin:end]
        if self._nested is None:
            return absmax.float()
        nested_absmax, book, block, offset = self._nested
        return book[absmax.int()] * nested_absmax[torch.arange(begin, end) // block] + offset


def _read_quant_state(reader: TensorReader, name: str) -> dict[str, Any]:
    begin = f"{name}.quant_state.bitsandbytes__"
    packed = next((candidate for candidate in reader.names if candidate.startswith(begin)), None)
    if packed is None:
        raise CheckpointError(
            f"{reader.checkpoint} lacks {begin}nf4, the state of a 4-bit weight: copy the whole checkpoint again"
        )
    try:
        state: dict[str, Any] = json.loads(bytes(reader.read(packed).tolist()))
    except ValueError as error:
        raise CheckpointError(
            f"{packed} in {reader.checkpoint} is damaged ({error}): copy the checkpoint again"
        ) from error
    return state
