"""A cache of keys and values for rows of different lengths that join and leave independently."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

CAPACITY_STEP_TOKENS = 64  # the capacity grows in steps of this many positions, to limit the number of distinct shapes


@dataclass(slots=True)
class CacheWindow:
    """The part of the cache that the next forward pass writes and reads.

    Attributes:
        rows: Index of the first slot, and one past that of the last.
        slots: The same slots as indices, [rows, 1].
        positions: Position to which each token is written, [rows, tokens].
        keys: Number of positions to read.
    """

    rows: tuple[int, int]
    slots: Tensor
    positions: Tensor
    keys: int


@dataclass(frozen=True, slots=True)
class CacheSize:
    """Size of the cache: number of slots, and positions per slot."""

    slots: int
    capacity: int


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values [slots, heads, capacity, head_dim]; position p of a row has index p."""

    is_compileable = True

    def __init__(self, cache: "SlotCache") -> None:
        super().__init__()  # type: ignore[no-untyped-call] # transformers leaves it untyped
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate memory for all slots on the layer's device."""
        self.keys, self.values = self._allocate_like(key_states), self._allocate_like(value_states)
        self.is_initialized = True

    def _allocate_like(self, like: Tensor) -> Tensor:
        _, heads, _, width = like.shape
        size = self.cache.size
        # Zeros rather than uninitialized memory: masked positions are multiplied by 0, but 0 times NaN is NaN.
        tensor = like.new_zeros(size.slots, heads, size.capacity, width)
        if tensor.device.type == "cuda":
            torch._dynamo.mark_static_address(tensor)  # CUDA graphs write to it in place
        return tensor

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values [rows, heads, tokens, head_dim] to the window's positions; return those to read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None  # noqa: S101 - for the type checker
        assert self.values is not None  # noqa: S101
        window = self.cache.window
        where = (window.slots.to(self.keys.device), slice(None), window.positions.to(self.keys.device))
        self.keys[where] = key_states.transpose(1, 2)
        self.values[where] = value_states.transpose(1, 2)
        rows = slice(*window.rows)
        return self.keys[rows, :, : window.keys], self.values[rows, :, : window.keys]

    def get_mask_sizes(self, _query_length: int) -> tuple[int, int]:
        """Return the number of keys to read, and the index of the first one (0)."""
        return self.cache.window.keys, 0

    def get_seq_length(self) -> int:
        """Return 0, which is never used: every forward pass gets positions and a mask, or starts from an empty row."""
        return 0

    def get_max_length(self) -> int:
        """Return the number of positions per slot."""
        return self.cache.size.capacity

    def get_tensors(self) -> tuple[Tensor, ...]:
        """Return the keys and values, or an empty tuple if they are not allocated yet."""
        return () if self.keys is None or self.values is None else (self.keys, self.values)


SavedKeyValues = list[tuple[Tensor, ...]]  # per layer: keys and values [heads, tokens, head_dim]


class SlotCache(Cache):
    """The cache of all layers; active rows use the first slots."""

    def __init__(self, layers: int, size: CacheSize) -> None:
        self.size = size
        self.window: CacheWindow
        self.slot_layers = [SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.slot_layers))

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of slot `source` to slot `target`."""
        for layer in self.slot_layers:
            for tensor in layer.get_tensors():
                tensor[target, :, :length] = tensor[source, :, :length]

    def save(self, slot: int, start: int, end: int) -> SavedKeyValues:
        """Return a copy of a slot's keys and values at the positions `start` to `end - 1`."""
        return [
            tuple(tensor[slot, :, start:end].clone() for tensor in layer.get_tensors()) for layer in self.slot_layers
        ]

    def restore(self, saved: SavedKeyValues, slot: int, start: int, count: int) -> None:
        """Copy the first `count` saved positions into a slot, starting at position `start`."""
        for layer, kept in zip(self.slot_layers, saved, strict=True):
            for tensor, source in zip(layer.get_tensors(), kept, strict=True):
                tensor[slot, :, start : start + count] = source[:, :count]

    def resize(self, size: CacheSize, rows: int, length: int) -> None:
        """Reallocate the cache, keeping the first `length` positions of the first `rows` slots."""
        self.size = size
        for layer in self.slot_layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys = _copy_rows(layer.keys, layer._allocate_like(layer.keys), rows, length)
                layer.values = _copy_rows(layer.values, layer._allocate_like(layer.values), rows, length)


def _copy_rows(old: Tensor, new: Tensor, rows: int, length: int) -> Tensor:
    new[:rows, :, :length] = old[:rows, :, :length]
    return new


def round_up_capacity(positions: int) -> int:
    """Round a number of positions up to a multiple of `CAPACITY_STEP_TOKENS`."""
    return -(-positions // CAPACITY_STEP_TOKENS) * CAPACITY_STEP_TOKENS
