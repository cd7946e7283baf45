"""Stores encoded examples in a file, so that a data set can be larger than memory; only offsets are kept in memory.

The file is read with `pread` instead of being memory-mapped, because mapped pages count as memory of the process.
"""

import errno
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, overload

import numpy as np
import numpy.typing as npt

from baichuan_core.errors import InsufficientSpaceError

IGNORED_LABEL = -100
BUFFER_BYTES = 2**20

TokenArray = npt.NDArray[np.int32]
IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """One example: `input_ids` and `labels`, both [seq].

    Attributes:
        input_ids: Token ids.
        labels: The token to learn at each position, not shifted; -100 for none.
        uncut_length: Number of tokens before truncation; None if the example was not truncated.
        has_answer: Whether the labels contain any token of an answer.
    """

    input_ids: list[int]
    labels: list[int]
    uncut_length: int | None = field(default=None, compare=False)
    has_answer: bool = True

    @property
    def is_truncated(self) -> bool:
        """Whether the end of the example was cut off."""
        return self.uncut_length is not None


class ExampleStore:
    """Examples in an unnamed file, which the system deletes when the process exits, even if it is killed.

    Args:
        folder: Directory on a disk with room for 8 bytes per token; by default the system's temporary directory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(buffering=BUFFER_BYTES, dir=folder)  # noqa: SIM115 - `_close_file` closes it
        weakref.finalize(self, _close_file, self._file)
        self._starts = array("q", [0])  # offsets in 4-byte values; the labels of an example follow its ids
        self._flushed = 0

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, example: EncodedExample) -> None:
        """Add an example.

        Raises:
            InsufficientSpaceError: The disk is full.
        """
        try:
            self._file.write(array("i", example.input_ids).tobytes())
            self._file.write(array("i", example.labels).tobytes())
        except OSError as error:
            raise self._convert_error(error) from error
        self._starts.append(self._starts[-1] + 2 * len(example.input_ids))

    def read(self, index: int) -> tuple[TokenArray, TokenArray]:
        """Return the token ids and the labels of an example, both [seq]."""
        if self._flushed < len(self):
            self._flush()
        start, end = self._starts[index], self._starts[index + 1]
        data = os.pread(self._file.fileno(), 4 * (end - start), 4 * start)
        ids, labels = np.frombuffer(data, np.int32).reshape(2, -1)
        return ids, labels

    @property
    def lengths(self) -> IndexArray:
        """Number of tokens in each example, an array of shape [examples]."""
        starts = np.array(self._starts, np.int64)
        return (starts[1:] - starts[:-1]) // 2

    def _flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise self._convert_error(error) from error
        self._flushed = len(self)

    def _convert_error(self, error: OSError) -> OSError | InsufficientSpaceError:
        if error.errno != errno.ENOSPC:
            return error
        return InsufficientSpaceError(
            f"the disk is full after {len(self)} encoded examples ({4 * self._starts[-1]} bytes): free some space or"
            " write to another disk"
        )


def _close_file(file: IO[bytes]) -> None:
    with suppress(OSError):  # close() flushes, which fails if the disk is full; the data is no longer needed
        file.close()


class StoredExamples(Sequence[EncodedExample]):
    """A selection of the examples in a store, in any order and possibly with repetitions.

    Args:
        store: The store.
        indices: Indices in the store: [examples].
    """

    def __init__(self, store: ExampleStore, indices: IndexArray) -> None:
        self.store = store
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> EncodedExample: ...

    @overload
    def __getitem__(self, index: slice) -> list[EncodedExample]: ...

    def __getitem__(self, index: int | slice) -> EncodedExample | list[EncodedExample]:
        if isinstance(index, slice):
            return [self._load_example(int(each)) for each in self.indices[index]]
        return self._load_example(int(self.indices[index]))

    @property
    def lengths(self) -> IndexArray:
        """Number of tokens in each example, an array of shape [examples]."""
        return self.store.lengths[self.indices]

    def iterate_arrays(self) -> Iterator[tuple[TokenArray, TokenArray]]:
        """Yield the token ids and the labels of each example."""
        return (self.store.read(int(index)) for index in self.indices)

    def _load_example(self, index: int) -> EncodedExample:
        ids, labels = self.store.read(index)
        return EncodedExample(ids.tolist(), labels.tolist())
