"""Keys and values of rows that differ in length and come and go on their own."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

CAPACITY_STEP = 64  # room grows by so many positions, so that few shapes occur


@dataclass(slots=True)
class Window:
    """Which part of the cache the next forward pass writes and reads.

    Attributes:
        rows: First slot and the one behind the last.
        slots: The same as indices, [rows, 1].
        positions: Where each token is written, [rows, tokens].
        keys: How many positions are read.
    """

    rows: tuple[int, int]
    slots: Tensor
    positions: Tensor
    keys: int


@dataclass(frozen=True, slots=True)
class Room:
    """The size of the cache: slots, and positions of each."""

    slots: int
    capacity: int


class SlotLayer(CacheLayerMixin):
    """One layer: keys and values [slots, heads, capacity, head_dim]. In a row the key of position p has index p."""

    is_compileable = True

    def __init__(self, cache: "SlotCache") -> None:
        super().__init__()  # type: ignore[no-untyped-call] # transformers leaves it untyped
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Takes the room for all rows, on the device of the layer."""
        self.keys, self.values = self._empty(key_states), self._empty(value_states)
        self.is_initialized = True

    def _empty(self, like: Tensor) -> Tensor:
        _, heads, _, width = like.shape
        room = self.cache.room
        # Zeros, because a masked key still takes part in products with weight 0.
        tensor = like.new_zeros(room.slots, heads, room.capacity, width)
        if tensor.device.type == "cuda":
            torch._dynamo.mark_static_address(tensor)  # CUDA graphs write to it in place
        return tensor

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Writes [rows, heads, tokens, head_dim] where the window says, and returns what it shows."""
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
        """How many keys are read, from the first one on."""
        return self.cache.window.keys, 0

    def get_seq_length(self) -> int:
        """Unused: every forward pass is given its positions and either a mask or nothing but new keys."""
        return 0

    def get_max_length(self) -> int:
        """Positions of a row."""
        return self.cache.room.capacity

    def tensors(self) -> tuple[Tensor, ...]:
        """Keys and values, if there are any yet."""
        return () if self.keys is None or self.values is None else (self.keys, self.values)


Saved = list[tuple[Tensor, ...]]  # by layer: keys and values [heads, tokens, head_dim]


class SlotCache(Cache):
    """The cache of all layers. Active rows stand in its first slots."""

    def __init__(self, layers: int, room: Room) -> None:
        self.room = room
        self.window: Window
        self.slot_layers = [SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.slot_layers))

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first ``length`` positions of one row over another."""
        for layer in self.slot_layers:
            for tensor in layer.tensors():
                tensor[target, :, :length] = tensor[source, :, :length]

    def save(self, slot: int, length: int) -> Saved:
        """A copy of the first positions of a row."""
        return [tuple(tensor[slot, :, :length].clone() for tensor in layer.tensors()) for layer in self.slot_layers]

    def restore(self, saved: Saved, slots: list[int]) -> None:
        """Puts what was saved into the beginning of rows."""
        for layer, kept in zip(self.slot_layers, saved, strict=True):
            for tensor, source in zip(layer.tensors(), kept, strict=True):
                tensor[slots, :, : source.shape[1]] = source

    def resize(self, room: Room, rows: int, length: int) -> None:
        """Takes other room and keeps the first ``length`` positions of the first ``rows`` rows."""
        self.room = room
        for layer in self.slot_layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys = _moved(layer.keys, layer._empty(layer.keys), rows, length)
                layer.values = _moved(layer.values, layer._empty(layer.values), rows, length)


def _moved(old: Tensor, new: Tensor, rows: int, length: int) -> Tensor:
    new[:rows, :, :length] = old[:rows, :, :length]
    return new


def rounded_up(positions: int) -> int:
    """The next capacity that has room for so many positions."""
    return -(-positions // CAPACITY_STEP) * CAPACITY_STEP
