"""Reads rows of a tensor out of a file, past its mapping: a page that is touched first costs more than its bytes."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from baichuan_core.errors import CheckpointError

# Rows `start` to `stop` of a tensor, from any thread. A tensor without dimensions counts as one row.
Rows = Callable[[int, int], Tensor]


@dataclass(frozen=True, slots=True)
class RowsInFile:
    """Rows of a tensor whose bytes are one run in a file.

    Attributes:
        file: For messages.
        descriptor: Of the file, open for reading.
        offset: Where the tensor begins.
    """

    file: Path
    descriptor: int
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def __call__(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, in memory of their own.

        Raises:
            CheckpointError: The file has become shorter.
        """
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        rows = torch.empty(shape, dtype=self.dtype)
        content = rows.reshape(-1).view(torch.uint8).numpy().data
        begin = self.offset + start * (rows.nbytes // max(stop - start, 1))
        done = 0
        while done < len(content):
            count = os.preadv(self.descriptor, [content[done:]], begin + done)
            if count == 0:
                raise CheckpointError(f"{self.file} has become shorter while it was read: copy or download it again")
            done += count
        return rows
