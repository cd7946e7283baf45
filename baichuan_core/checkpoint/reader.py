"""Reads the tensors of a checkpoint one at a time, without loading the others."""

import json
import os
import pickle
import struct
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from baichuan_core.errors import CheckpointError
from checkpoint_files.json_files import LFS_POINTER, reject_lfs_pointer
from checkpoint_files.weights import (
    DERIVED,
    find_weights,
    other_object_message,
    published_int4_message,
    read_weight_map,
)

from .file_errors import translate_file_errors
from .published_int4 import import_published_int4, is_published_int4
from .rows_in_file import FileRowReader, RowReader


class TensorReader:
    """Reader of the tensors in a checkpoint directory: safetensors or `.bin`, in one file or in shards.

    Files are memory-mapped, and `.bin` files are unpickled with `weights_only=True`. Files written by torch before 1.6
    cannot be mapped, so at most one of them is in memory at a time. Stored `inv_freq` buffers are ignored. Several
    threads may read at once.

    Args:
        checkpoint: The directory.
        weights: The weight file or index to read; by default, the first of the usual files that exists.
        import_int4: Convert the published 4-bit format to the tensors that transformers stores today.

    Raises:
        CheckpointError: There are no weights, or a shard is missing, damaged or not a checkpoint. The message names
            the file.
    """

    def __init__(self, checkpoint: Path, weights: Path | None = None, *, import_int4: bool = False) -> None:
        self.checkpoint = checkpoint
        self._import_int4 = import_int4
        self.imported_int4 = False
        self._lock = threading.RLock()
        self._stack = ExitStack()
        self._mapped: dict[Path, Any] = {}
        self._unpickled: dict[Path, Mapping[str, Tensor]] = {}
        self._unmapped_file: Path | None = None
        self._offsets: dict[Path, dict[str, int]] = {}
        self._descriptors: dict[Path, int] = {}
        with translate_file_errors():
            source = weights or find_weights(checkpoint)
            weight_map = read_weight_map(source) if source.suffix == ".json" else None
        self.files = sorted({source} if weight_map is None else {checkpoint / file for file in weight_map.values()})
        self._file_by_name: dict[str, Path] = {}
        for file in self.files:
            self._file_by_name |= dict.fromkeys(self._read_names(file), file)
        if weight_map is not None:
            self._check_weight_map(weight_map)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mapped.clear()
        self._unpickled.clear()
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """Names of all tensors, file by file."""
        return [name for name in self._file_by_name if not DERIVED.search(name)]

    @property
    def total_bytes(self) -> int:
        """Size of all weight files."""
        return sum(file.stat().st_size for file in self.files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, read from the header if the file has one."""
        file = self._file_by_name[name]
        if file.suffix == ".safetensors":
            return tuple(self._open_safetensors(file).get_slice(name).get_shape())
        return tuple(self._unpickle(file)[name].shape)

    def is_float(self, name: str) -> bool:
        """Return whether a tensor contains floats, according to the header if the file has one."""
        file = self._file_by_name[name]
        if file.suffix == ".safetensors":
            return "F" in self.dtype(name)
        return self._unpickle(file)[name].is_floating_point()

    def dtype(self, name: str) -> str:
        """Return the dtype of a tensor as its file spells it, e.g. "BF16" in safetensors."""
        file = self._file_by_name[name]
        if file.suffix == ".safetensors":
            return str(self._open_safetensors(file).get_slice(name).get_dtype())
        return str(self._unpickle(file)[name].dtype)

    def file(self, name: str) -> Path:
        """Return the path of the file that contains a tensor."""
        return self._file_by_name[name]

    def read(self, name: str) -> Tensor:
        """Return one tensor on the CPU, memory-mapped if possible.

        Raises:
            CheckpointError: The checkpoint has no such tensor.
        """
        if name not in self._file_by_name:
            raise CheckpointError(f"{self.checkpoint} has no tensor {name}: copy the whole checkpoint again")
        file = self._file_by_name[name]
        tensor: Tensor = (
            self._open_safetensors(file).get_tensor(name)
            if file.suffix == ".safetensors"
            else self._unpickle(file)[name]
        )
        return tensor

    def make_row_reader(self, name: str) -> RowReader:
        """Return a function that reads rows of a tensor from any thread while this reader is open."""
        tensor, file = self.read(name), self._file_by_name[name]
        with self._lock:
            if file not in self._offsets:
                self._offsets[file] = _find_offsets(file) if not self.imported_int4 else {}
            offset = self._offsets[file].get(name)
            if offset is not None:
                return FileRowReader(file, self._open_descriptor(file), offset, tensor.dtype, tuple(tensor.shape))

        def read_rows(start: int, stop: int) -> Tensor:
            whole = self.read(name)
            return whole[start:stop] if whole.dim() else whole

        return read_rows

    def _open_descriptor(self, file: Path) -> int:
        if file not in self._descriptors:
            self._descriptors[file] = os.open(file, os.O_RDONLY)
            self._stack.callback(os.close, self._descriptors[file])
        return self._descriptors[file]

    def _read_names(self, file: Path) -> list[str]:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing: copy or download this shard of the checkpoint")
        with translate_file_errors(), file.open("rb") as stream:
            reject_lfs_pointer(file, stream.read(len(LFS_POINTER)))
        if file.suffix == ".safetensors":
            return list(self._open_safetensors(file).keys())
        return list(self._unpickle(file))

    def _open_safetensors(self, file: Path) -> Any:
        with self._lock:
            if file not in self._mapped:
                try:
                    self._mapped[file] = self._stack.enter_context(safe_open(file, framework="pt", device="cpu"))
                except (SafetensorError, OSError) as error:
                    raise _build_damaged_file_error(file, error) from error
            return self._mapped[file]

    def _unpickle(self, file: Path) -> Mapping[str, Tensor]:
        with self._lock:
            if file not in self._unpickled:
                if self._unmapped_file is not None:
                    del self._unpickled[self._unmapped_file]
                    self._unmapped_file = None
                content, is_mapped = _load_pickled(file)
                self._unpickled[file] = self._extract_tensors(content, file)
                self._unmapped_file = None if is_mapped else file
            return self._unpickled[file]

    def _extract_tensors(self, content: object, file: Path) -> Mapping[str, Tensor]:
        if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
            raise CheckpointError(f"{file} is not a mapping of names to tensors: copy or download the checkpoint again")
        if is_published_int4(content):
            if not self._import_int4:
                raise CheckpointError(published_int4_message(file))
            self.imported_int4 = True
            return import_published_int4(content, file)
        others = [name for name, value in content.items() if not isinstance(value, Tensor)]
        if others:
            raise CheckpointError(
                other_object_message(file, others[0], is_mapping=isinstance(content[others[0]], Mapping))
            )
        tensors: Mapping[str, Tensor] = content
        return tensors

    def _check_weight_map(self, weight_map: Mapping[str, str]) -> None:
        for name, file in weight_map.items():
            if self._file_by_name.get(name) != self.checkpoint / file:
                raise CheckpointError(
                    f"{self.checkpoint / file} lacks the tensor {name} that the index lists: "
                    "copy or download this shard again"
                )


def _load_pickled(file: Path) -> tuple[object, bool]:
    """Return the content of a file, and whether its tensors are memory-mapped."""
    try:
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True), True
        except RuntimeError:
            # Files written by torch before 1.6 are not ZIP archives and cannot be memory-mapped.
            return torch.load(file, map_location="cpu", weights_only=True), False
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} is damaged or contains objects other than tensors, which are never loaded: if you trust the file, "
            f"convert it to safetensors elsewhere, otherwise download it again ({_extract_cause(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise _build_damaged_file_error(file, error) from error


def _find_offsets(file: Path) -> dict[str, int]:
    """Return the offset of each contiguous tensor in a file."""
    if file.suffix == ".safetensors":
        with file.open("rb") as stream:
            (header_bytes,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(header_bytes))
        start = 8 + header_bytes
        return {name: start + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}
    with FakeTensorMode():  # https://docs.pytorch.org/tutorials/unstable/gpu_direct_storage.html
        tensors = torch.load(file, weights_only=True)
    offsets = {}
    for name, tensor in tensors.items():
        start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        if start is not None and tensor.is_contiguous():
            offsets[name] = start + tensor.storage_offset() * tensor.element_size()
    return offsets


def _build_damaged_file_error(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file} is damaged ({_get_first_line(error)}): copy or download it again")


def _extract_cause(error: Exception) -> str:
    """Return only the cause, because torch's message starts by advising `weights_only=False`, which would run code."""
    return next((line for line in str(error).splitlines() if "Unsupported" in line), type(error).__name__).strip()


def _get_first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
