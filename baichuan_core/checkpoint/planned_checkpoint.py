"""Writes all shards of a safetensors checkpoint in parallel; requires that all tensors are known in advance."""

import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from .parallel_writer import PlacedTensor, PlannedTensor, write_placed_tensors
from .writer import (
    ALIGNMENT_BYTES,
    DEFAULT_SHARD_BYTES,
    METADATA_ENTRY,
    list_shard_names,
    make_header_entry,
    write_index,
)


def write_checkpoint(
    directory: Path,
    tensors: Sequence[PlannedTensor],
    on_bytes: Callable[[int], None],
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write `model.safetensors`, or shards and their index.

    Args:
        directory: Directory of the checkpoint.
        tensors: All tensors, in the order in which to read them.
        on_bytes: Called after each chunk with its size in bytes.
        shard_bytes: Maximum size of a shard; a single larger tensor gets a shard of its own.
    """
    shards = _split_into_shards(tensors, shard_bytes)
    placed: list[PlacedTensor] = []
    weight_map: dict[str, str] = {}
    for name, shard in zip(list_shard_names(len(shards)), shards, strict=True):
        placed += _create_shard(directory / name, shard)
        weight_map |= {tensor.name: name for tensor in shard}
    write_index(directory, weight_map, sum(tensor.nbytes for tensor in tensors))
    write_placed_tensors(placed, on_bytes)


def _split_into_shards(tensors: Sequence[PlannedTensor], shard_bytes: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _create_shard(file: Path, tensors: list[PlannedTensor]) -> list[PlacedTensor]:
    """Create a file with its header and space for the tensors.

    Readers require every tensor to be aligned to its dtype. A tensor whose size is a multiple of 8 bytes keeps the
    next one aligned; the others come last, widest dtype first.
    """
    ordered = sorted(
        tensors, key=lambda tensor: -tensor.dtype.itemsize if tensor.nbytes % ALIGNMENT_BYTES else -ALIGNMENT_BYTES
    )
    entries: dict[str, object] = dict(METADATA_ENTRY)
    begins = []
    offset = 0
    for tensor in ordered:
        begins.append(offset)
        entries[tensor.name] = make_header_entry(tensor.dtype, tensor.shape, offset, tensor.nbytes)
        offset += tensor.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT_BYTES)
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    start = file.stat().st_size
    os.truncate(file, start + offset)
    return [PlacedTensor(tensor, file, start + begin) for tensor, begin in zip(ordered, begins, strict=True)]
