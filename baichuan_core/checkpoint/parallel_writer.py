"""Writes tensors whose places in a file are known beforehand, in pieces, by several threads at once."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

# Large enough that a piece costs more than its bookkeeping; with all that is computed of it, small beside a tensor.
PIECE_BYTES = 2**20
MAX_THREADS = 8  # more wait for the disk or for memory
PAGE = 4096


Rows = Callable[[int, int], Tensor]


@dataclass(frozen=True, slots=True)
class RowsInFile:
    """Rows that stand in a file exactly as they are to be written, so that the kernel can copy them.

    Attributes:
        read: Gives them as tensors, where the kernel cannot.
        offset: Of the first row.
    """

    read: Rows
    file: Path
    offset: int

    def __call__(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`."""
        return self.read(start, stop)


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
        descriptors = _opened(placed, stack)
        threads = ThreadPoolExecutor(min(torch.get_num_threads(), MAX_THREADS), "writer")
        stack.callback(threads.shutdown, cancel_futures=True)
        tasks: list[Future[int]] = []
        for file, places in groupby(placed, key=lambda place: place.file):
            pieces = [
                threads.submit(_write_rows, descriptors, place, start, stop)
                for place in places
                for start, stop in _pieces(place.tensor)
            ]
            tasks += [*pieces, threads.submit(_bring_to_disk, descriptors[file], pieces)]
        for task in tasks:
            on_bytes(task.result())


def _opened(placed: Sequence[PlacedTensor], stack: ExitStack) -> dict[Path, int]:
    """Descriptors of all files that are written to or copied from."""
    rows = [place.tensor.rows for place in placed]
    modes = {source.file: os.O_RDONLY for source in rows if isinstance(source, RowsInFile)}
    modes |= {place.file: os.O_WRONLY for place in placed}
    descriptors = {file: os.open(file, mode) for file, mode in modes.items()}
    for descriptor in descriptors.values():
        stack.callback(os.close, descriptor)
    return descriptors


def _pieces(tensor: PlannedTensor) -> Iterator[tuple[int, int]]:
    if tensor.nbytes == 0:
        return
    step = max(PIECE_BYTES // tensor.row_bytes, 1)
    for start in range(0, tensor.row_count, step):
        yield start, min(start + step, tensor.row_count)


def _write_rows(descriptors: dict[Path, int], place: PlacedTensor, start: int, stop: int) -> int:
    """Write one piece; returns its size."""
    tensor, target = place.tensor, descriptors[place.file]
    begin, count = start * tensor.row_bytes, (stop - start) * tensor.row_bytes
    if isinstance(tensor.rows, RowsInFile):
        source = descriptors[tensor.rows.file]
        if _copied(source, tensor.rows.offset + begin, target, place.offset + begin, count):
            return count
    rows = tensor.rows(start, stop).detach().contiguous()
    if rows.dtype != tensor.dtype or rows.nbytes != count:
        raise RuntimeError(f"{tensor.name} gave {rows.dtype} {list(rows.shape)} for rows {start} to {stop}")
    content = rows.reshape(-1).view(torch.uint8).numpy().data
    written = 0
    while written < count:
        written += os.pwrite(target, content[written:], place.offset + begin + written)
    return count


def _bring_to_disk(descriptor: int, pieces: list[Future[int]]) -> int:
    """Keep the disk busy with a file that is complete, while the next one is being made."""
    wait(pieces)  # all have begun before this, so that they end even if this is the only thread
    os.fsync(descriptor)
    return 0


def _copied(source: int, source_offset: int, target: int, target_offset: int, count: int) -> bool:
    """Let the kernel copy bytes between files; False where it cannot, between some file systems, or is slow."""
    if (source_offset - target_offset) % PAGE:  # it would write every page in two parts
        return False
    done = 0
    while done < count:
        try:
            copied = os.copy_file_range(source, target, count - done, source_offset + done, target_offset + done)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                return False
            raise
        if copied == 0:  # some file systems say so of what they cannot copy
            return False
        done += copied
    return True
