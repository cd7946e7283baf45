"""Writes tensors in chunks from several threads, at precomputed offsets in existing files."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from .rows_in_file import RowReader

# Large enough to make the overhead per chunk negligible, yet small compared with a tensor, even counting temporaries.
CHUNK_BYTES = 2**20
MAX_THREADS = 8  # more threads would only wait for the disk or for memory
# The kernel keeps written pages in memory for seconds. Calling fsync this often keeps the disk busy from the start.
FSYNC_INTERVAL_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """Description of a tensor to write, and a function that computes its rows.

    Attributes:
        rows: Returns `tensor[start:stop]`; may be called from any thread. A scalar counts as one row.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    rows: RowReader

    @property
    def row_count(self) -> int:
        """Length of the first dimension."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Size of one row in bytes."""
        size = self.dtype.itemsize
        for length in self.shape[1:]:
            size *= length
        return size

    @property
    def nbytes(self) -> int:
        """Size of the whole tensor in bytes."""
        return self.row_count * self.row_bytes


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """A tensor with its position: an existing file and an offset in it."""

    tensor: PlannedTensor
    file: Path
    offset: int


def write_placed_tensors(placed: Sequence[PlacedTensor], on_bytes: Callable[[int], None]) -> None:
    """Write all tensors to their positions and sync the files to disk, with one chunk per thread in memory.

    Args:
        placed: Tensors with their positions, grouped by file; writing starts in this order.
        on_bytes: Called on the calling thread after each chunk, in order, with its size in bytes.
    """
    with ExitStack() as stack:
        targets = {file: os.open(file, os.O_WRONLY) for file in dict.fromkeys(place.file for place in placed)}
        for target in targets.values():
            stack.callback(os.close, target)
        syncer = ThreadPoolExecutor(1, "disk")
        stack.callback(syncer.shutdown, cancel_futures=True)
        threads = ThreadPoolExecutor(min(torch.get_num_threads(), MAX_THREADS), "writer")
        stack.callback(threads.shutdown, cancel_futures=True)
        chunks = [
            (targets[place.file], threads.submit(_write_rows, targets[place.file], place, start, stop))
            for place in placed
            for start, stop in _iterate_chunks(place.tensor)
        ]
        syncs: list[Future[None]] = []
        unsynced_bytes = dict.fromkeys(targets.values(), 0)
        for target, chunk in chunks:
            count = chunk.result()
            on_bytes(count)
            unsynced_bytes[target] += count
            if unsynced_bytes[target] >= FSYNC_INTERVAL_BYTES:
                syncs.append(syncer.submit(os.fsync, target))
                unsynced_bytes[target] = 0
        syncs += [syncer.submit(os.fsync, target) for target in targets.values()]
        for sync in syncs:
            sync.result()


def _iterate_chunks(tensor: PlannedTensor) -> Iterator[tuple[int, int]]:
    if tensor.nbytes == 0:
        return
    step = max(CHUNK_BYTES // tensor.row_bytes, 1)
    for start in range(0, tensor.row_count, step):
        yield start, min(start + step, tensor.row_count)


def _write_rows(target: int, place: PlacedTensor, start: int, stop: int) -> int:
    """Write one chunk and return its size in bytes."""
    tensor = place.tensor
    begin, count = place.offset + start * tensor.row_bytes, (stop - start) * tensor.row_bytes
    rows = tensor.rows(start, stop).detach().contiguous()
    if rows.dtype != tensor.dtype or rows.nbytes != count:
        expected = [stop - start, *tensor.shape[1:]] if tensor.shape else []
        raise RuntimeError(
            f"expected {tensor.dtype} {expected} for rows {start} to {stop} of {tensor.name}, "
            f"but got {rows.dtype} {list(rows.shape)}"
        )
    content = rows.reshape(-1).view(torch.uint8).numpy().data
    written = 0
    while written < count:
        written += os.pwrite(target, content[written:], begin + written)
    return count
