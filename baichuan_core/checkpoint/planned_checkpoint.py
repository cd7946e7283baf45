"""Writes a safetensors checkpoint whose tensors are all known beforehand, all shards at once."""

import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from .parallel_writer import PlacedTensor, PlannedTensor, write_placed
from .writer import ALIGNMENT, DEFAULT_SHARD_BYTES, METADATA, entry, shard_names, write_index


def write_checkpoint(
    directory: Path,
    tensors: Sequence[PlannedTensor],
    on_bytes: Callable[[int], None],
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write `model.safetensors`, or shards and their index.

    Args:
        directory: Where to.
        tensors: All tensors, in the order in which they are to be read.
        on_bytes: Told after each piece how many bytes it had.
        shard_bytes: No shard is larger, but for one with a single tensor.
    """
    shards = _divided(tensors, shard_bytes)
    placed: list[PlacedTensor] = []
    weight_map: dict[str, str] = {}
    for name, shard in zip(shard_names(len(shards)), shards, strict=True):
        placed += _laid_out(directory / name, shard)
        weight_map |= {tensor.name: name for tensor in shard}
    write_index(directory, weight_map, sum(tensor.nbytes for tensor in tensors))
    write_placed(placed, on_bytes)


def _divided(tensors: Sequence[PlannedTensor], shard_bytes: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _laid_out(file: Path, tensors: list[PlannedTensor]) -> list[PlacedTensor]:
    """Make a file with its header and room for the tensors.

    Readers want every tensor aligned to its dtype. One whose size is a multiple of 8 keeps the next one aligned;
    the others come last, widest dtype first.
    """
    ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize if tensor.nbytes % ALIGNMENT else -ALIGNMENT)
    entries: dict[str, object] = dict(METADATA)
    begins = []
    offset = 0
    for tensor in ordered:
        begins.append(offset)
        entries[tensor.name] = entry(tensor.dtype, tensor.shape, offset, tensor.nbytes)
        offset += tensor.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    start = file.stat().st_size
    os.truncate(file, start + offset)
    return [PlacedTensor(tensor, file, start + begin) for tensor, begin in zip(ordered, begins, strict=True)]
