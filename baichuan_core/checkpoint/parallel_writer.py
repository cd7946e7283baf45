"""Writes tensors whose places in a file are known beforehand, in pieces, by several threads at once."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from .rows_in_file import Rows

# Large enough that a piece costs more than its bookkeeping; with all that is computed of it, small beside a tensor.
PIECE_BYTES = 2**20
MAX_THREADS = 8  # more wait for the disk or for memory
# The system leaves new bytes in memory for seconds; told of them this often, the disk works from the start on.
BYTES_FOR_THE_DISK = 64 * 2**20


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor that is to be written, known but for its numbers.

    Attributes:
        rows: Gives `tensor[start:stop]`, from any thread. A tensor without dimensions counts as one row.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    rows: Rows

    @property
    def row_count(self) -> int:
        """Length of the first dimension."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        size = self.dtype.itemsize
        for length in self.shape[1:]:
            size *= length
        return size

    @property
    def nbytes(self) -> int:
        """Size of the whole."""
        return self.row_count * self.row_bytes


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """A tensor and where its bytes go: an existing file, and an offset in it."""

    tensor: PlannedTensor
    file: Path
    offset: int


def write_placed(placed: Sequence[PlacedTensor], on_bytes: Callable[[int], None]) -> None:
    """Write all tensors to their places and the files to the disk; memory holds one piece a thread.

    Args:
        placed: What goes where, file after file; earlier ones are begun earlier.
        on_bytes: Told after each piece, in order, how many bytes it had; on the calling thread.
    """
    with ExitStack() as stack:
        targets = {file: os.open(file, os.O_WRONLY) for file in dict.fromkeys(place.file for place in placed)}
        for target in targets.values():
            stack.callback(os.close, target)
        disk = ThreadPoolExecutor(1, "disk")
        stack.callback(disk.shutdown, cancel_futures=True)
        threads = ThreadPoolExecutor(min(torch.get_num_threads(), MAX_THREADS), "writer")
        stack.callback(threads.shutdown, cancel_futures=True)
        pieces = [
            (targets[place.file], threads.submit(_write_rows, targets[place.file], place, start, stop))
            for place in placed
            for start, stop in _pieces(place.tensor)
        ]
        on_disk: list[Future[None]] = []
        waiting = dict.fromkeys(targets.values(), 0)
        for target, piece in pieces:
            count = piece.result()
            on_bytes(count)
            waiting[target] += count
            if waiting[target] >= BYTES_FOR_THE_DISK:
                on_disk.append(disk.submit(os.fsync, target))
                waiting[target] = 0
        on_disk += [disk.submit(os.fsync, target) for target in targets.values()]
        for brought in on_disk:
            brought.result()


def _pieces(tensor: PlannedTensor) -> Iterator[tuple[int, int]]:
    if tensor.nbytes == 0:
        return
    step = max(PIECE_BYTES // tensor.row_bytes, 1)
    for start in range(0, tensor.row_count, step):
        yield start, min(start + step, tensor.row_count)


def _write_rows(target: int, place: PlacedTensor, start: int, stop: int) -> int:
    """Write one piece; returns its size."""
    tensor = place.tensor
    begin, count = place.offset + start * tensor.row_bytes, (stop - start) * tensor.row_bytes
    rows = tensor.rows(start, stop).detach().contiguous()
    if rows.dtype != tensor.dtype or rows.nbytes != count:
        raise RuntimeError(f"{tensor.name} gave {rows.dtype} {list(rows.shape)} for rows {start} to {stop}")
    content = rows.reshape(-1).view(torch.uint8).numpy().data
    written = 0
    while written < count:
        written += os.pwrite(target, content[written:], begin + written)
    return count
