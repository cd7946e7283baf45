"""The weights of a checkpoint as floats, some rows at a time, however it stores them."""

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
from baichuan_core.checkpoint.rows_in_file import Rows
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError
from baichuan_core.model.eight_bits import dequantize_rows
from checkpoint_files.layout import expected_tensors, linear_layers

from .rows import cast

SCALES = {EMBEDDING: EMBEDDING_SCALE, HEAD: HEAD_SCALE}


def stored(reader: TensorReader, name: str) -> PlannedTensor:
    """A tensor as it is in the file."""
    tensor = reader.read(name)
    return PlannedTensor(name, tensor.dtype, tuple(tensor.shape), reader.rows(name))


class DenseTensors:
    """The tensors of a model, quantized ones restored.

    Args:
        reader: A checkpoint that holds what its configuration asks for; must stay open while rows are read.
        config: Its configuration.
        dtype: What all tensors shall have; that which the checkpoint has beside quantized ones if not given.
    """

    def __init__(self, reader: TensorReader, config: BaichuanConfig, dtype: torch.dtype | None = None) -> None:
        self._reader = reader
        self._config = config
        self._wanted = dtype
        self._linear = linear_layers(config)
        self._held = dict.fromkeys(reader.names)

    @cached_property
    def names(self) -> list[str]:
        """Names of all tensors in the order of the files."""
        expected = expected_tensors(self._config)
        return [name for name in self._held if name in expected and name not in SCALES.values()]

    @cached_property
    def dtype(self) -> torch.dtype:
        """What a restored tensor has."""
        return self._wanted or self._reader.read(FINAL_NORM).dtype

    def tensor(self, name: str) -> PlannedTensor:
        """One tensor, in the dtype that was asked for; raises what `exact` raises."""
        exact = self.exact(name)
        is_stored = exact.dtype == self._reader.read(name).dtype
        return exact if is_stored and self._wanted is None else cast(exact, self.dtype)

    def exact(self, name: str) -> PlannedTensor:
        """One tensor: float32 if it is quantized, else as it is stored.

        Raises:
            CheckpointError: What belongs to a quantized tensor is missing or damaged.
        """
        restored = self._restored(name)
        if restored is None:
            return stored(self._reader, name)
        shape = self._linear.get(name) or self._reader.shape(name)
        return PlannedTensor(name, torch.float32, shape, restored)

    def _restored(self, name: str) -> Rows | None:
        """Gives float32 rows of a quantized tensor; None for one that is stored as it is."""
        if name in SCALES and self._config.quantize_head:
            codes, scale = self._reader.read(name), self._reader.read(SCALES[name])
            return lambda start, stop: dequantize_embedding_or_head(codes[start:stop], scale[start:stop])
        if name not in self._linear or not is_quantized(self._config):
            return None
        layer = name.removesuffix(".weight")
        if f"{layer}.SCB" in self._held:
            codes, largest = self._reader.read(name), self._reader.read(f"{layer}.SCB")
            return lambda start, stop: dequantize_rows(codes[start:stop], largest[start:stop])
        return FourBits(self._reader, name).rows


class FourBits:
    """A matrix in bitsandbytes' 4-bit form (Dettmers et al. 2023, arXiv 2305.14314), its blocks restored as needed."""

    def __init__(self, reader: TensorReader, name: str) -> None:
        state = _state(reader, name)
        self._width = int(state["shape"][1])
        self._block = int(state["blocksize"])
        self._codes = reader.read(name).reshape(-1).numpy()
        self._absmax = reader.read(f"{name}.absmax")
        book = reader.read(f"{name}.quant_map").float().numpy()
        # Both values of a byte, the first one in its high bits.
        pairs = np.arange(256)
        self._pairs = np.stack((book[pairs >> 4], book[pairs & 15]), axis=1)
        self._nested: tuple[Tensor, Tensor, int, float] | None = None
        if "nested_offset" in state:
            absmax, book2 = reader.read(f"{name}.nested_absmax"), reader.read(f"{name}.nested_quant_map")
            self._nested = (absmax.float(), book2.float(), int(state["nested_blocksize"]), state["nested_offset"])

    def rows(self, start: int, stop: int) -> Tensor:
        """float32 [stop - start, in]."""
        first, last = start * self._width, stop * self._width
        begin, end = first // self._block, -(-last // self._block)
        values = self._pairs[self._codes[begin * self._block // 2 : end * self._block // 2]].reshape(-1)
        scales = self._scales(begin, end).repeat_interleave(self._block)[: values.size]
        whole = torch.from_numpy(values).mul_(scales)
        offset = first - begin * self._block
        return whole[offset : offset + last - first].view(stop - start, self._width)

    def _scales(self, begin: int, end: int) -> Tensor:
        """float32 absmax of blocks."""
        absmax = self._absmax[begin:end]
        if self._nested is None:
            return absmax.float()
        nested_absmax, book, block, offset = self._nested
        return book[absmax.int()] * nested_absmax[torch.arange(begin, end) // block] + offset


def _state(reader: TensorReader, name: str) -> dict[str, Any]:
    begin = f"{name}.quant_state.bitsandbytes__"
    packed = next((candidate for candidate in reader.names if candidate.startswith(begin)), None)
    if packed is None:
        raise CheckpointError(
            f"{reader.checkpoint} lacks {begin}nf4, the state of a 4-bit weight: copy it again, whole"
        )
    try:
        state: dict[str, Any] = json.loads(bytes(reader.read(packed).tolist()))
    except ValueError as error:
        raise CheckpointError(f"{packed} in {reader.checkpoint} is damaged ({error}): copy it again") from error
    return state
