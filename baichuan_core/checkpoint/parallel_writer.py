"""Writes tensors whose places in a file are known beforehand, in pieces, by several threads at once."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

# Large enough that a piece costs more than its bookkeeping; with all that is computed of it, small beside a tensor.
PIECE_BYTES = 4 * 2**20
MAX_THREADS = 8  # more wait for the disk or for memory


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor that is to be written, known but for its numbers.

    Attributes:
        rows: Gives `tensor[start:stop]`, from any thread. A tensor without dimensions counts as one row.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    rows: Callable[[int, int], Tensor]

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
    """Write all tensors to their places; memory holds one piece a thread.

    Args:
        placed: What goes where; earlier ones are begun earlier.
        on_bytes: Told after each piece, in order, how many bytes it had; on the calling thread.
    """
    with ExitStack() as stack:
        descriptors = {}
        for file in dict.fromkeys(place.file for place in placed):
            descriptors[file] = os.open(file, os.O_WRONLY)
            stack.callback(os.close, descriptors[file])
        threads = ThreadPoolExecutor(min(torch.get_num_threads(), MAX_THREADS), "writer")
        stack.callback(threads.shutdown, cancel_futures=True)
        pieces: list[Future[int]] = [
            threads.submit(_write_rows, descriptors[place.file], place, start, stop)
            for place in placed
            for start, stop in _pieces(place.tensor)
        ]
        for piece in pieces:
            on_bytes(piece.result())


def _pieces(tensor: PlannedTensor) -> Iterator[tuple[int, int]]:
    if tensor.nbytes == 0:
        return
    step = max(PIECE_BYTES // tensor.row_bytes, 1)
    for start in range(0, tensor.row_count, step):
        yield start, min(start + step, tensor.row_count)


def _write_rows(descriptor: int, place: PlacedTensor, start: int, stop: int) -> int:
    tensor = place.tensor
    rows = tensor.rows(start, stop).detach().contiguous()
    content = rows.reshape(-1).view(torch.uint8).numpy().data
    if rows.dtype != tensor.dtype or content.nbytes != (stop - start) * tensor.row_bytes:
        raise RuntimeError(f"{tensor.name} gave {rows.dtype} {list(rows.shape)} for rows {start} to {stop}")
    written = 0
    while written < content.nbytes:
        written += os.pwrite(descriptor, content[written:], place.offset + start * tensor.row_bytes + written)
    return written
