"""Writes safetensors shards and their index with one tensor in memory at a time."""

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

DEFAULT_SHARD_BYTES = 5 * 10**9
INDEX_FILE = "model.safetensors.index.json"
# transformers requires this entry, which marks the tensors as PyTorch tensors.
METADATA_ENTRY = {"__metadata__": {"format": "pt"}}
# Maximum size of a header entry without its name: dtype, shape, two offsets and punctuation.
_MAX_ENTRY_BYTES = 128
ALIGNMENT_BYTES = 8

# From the table of dtypes in https://github.com/huggingface/safetensors.
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class TensorWriter:
    """Writer that appends tensors to a checkpoint directory in safetensors shards.

    Args:
        directory: Directory for `model.safetensors`, or for the shards `model-00001-of-0000N.safetensors` and an index.
        names: Names of all tensors that may be added, to reserve space for their header entries.
        shard_bytes: Maximum size of a shard with more than one tensor.
    """

    def __init__(self, directory: Path, names: list[str], shard_bytes: int = DEFAULT_SHARD_BYTES) -> None:
        self._directory = directory
        self._header_bytes = sum(len(name.encode()) + _MAX_ENTRY_BYTES for name in names) + _MAX_ENTRY_BYTES
        self._shard_bytes = shard_bytes
        self._finished: list[_Shard] = []
        self._open: _Shard | None = None

    @property
    def bytes_written(self) -> int:
        """Total size of the tensors added so far."""
        shards = [*self._finished, *([self._open] if self._open is not None else [])]
        return sum(shard.size for shard in shards)

    def add(self, name: str, tensor: Tensor) -> None:
        """Append one tensor."""
        if self._open is not None and self._open.size + tensor.nbytes > self._shard_bytes:
            self._close_shard()
        if self._open is None:
            path = self._directory / f"shard-{len(self._finished)}.partial"
            self._open = _Shard(path, self._header_bytes)
        self._open.add(name, tensor.detach().cpu().contiguous())

    def finish(self) -> None:
        """Close the last shard, give the shards their final names and, if there are several, write the index."""
        self._close_shard()
        weight_map: dict[str, str] = {}
        for name, shard in zip(list_shard_names(len(self._finished)), self._finished, strict=True):
            shard.path.rename(self._directory / name)
            weight_map |= dict.fromkeys(shard.names, name)
        write_index(self._directory, weight_map, self.bytes_written)

    def _close_shard(self) -> None:
        if self._open is not None:
            self._open.close()
            self._finished.append(self._open)
            self._open = None


@contextmanager
def tensor_writer(directory: Path, names: list[str], shard_bytes: int = DEFAULT_SHARD_BYTES) -> Iterator[TensorWriter]:
    """Yield a `TensorWriter` that is finished if the `with` block succeeds."""
    writer = TensorWriter(directory, names, shard_bytes)
    try:
        yield writer
    except BaseException:
        if writer._open is not None:
            writer._open.file.close()
        raise
    writer.finish()


def list_shard_names(count: int) -> list[str]:
    """Return the file names that transformers expects for `count` shards."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def write_index(directory: Path, weight_map: dict[str, str], total_size: int) -> None:
    """Write the index that maps tensors to files, if there is more than one file.

    Args:
        directory: Directory of the shards.
        weight_map: File name by tensor name.
        total_size: Size of all tensors in bytes.
    """
    if len(set(weight_map.values())) > 1:
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def make_header_entry(dtype: torch.dtype, shape: Sequence[int], begin: int, nbytes: int) -> dict[str, object]:
    """Return the entry of one tensor in a safetensors header."""
    return {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [begin, begin + nbytes]}


class _Shard:
    """One safetensors file: the length of the header, the header, and the tensors without gaps.

    The header comes first but is known last, so space is reserved for it and then padded with blanks, as the format
    allows. Readers require every tensor to be aligned to its dtype. A tensor whose size is a multiple of 8 bytes keeps
    the next one aligned and is written immediately; the others are deferred to the end, widest dtype first.
    """

    def __init__(self, path: Path, header_bytes: int) -> None:
        self.path = path
        self.size = 0
        self._header_bytes = -(-header_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self._entries: dict[str, object] = dict(METADATA_ENTRY)
        self._deferred: list[tuple[str, Tensor]] = []
        self.file: BinaryIO = path.open("wb")
        self.file.write(bytes(8 + self._header_bytes))
        self._offset = 0

    @property
    def names(self) -> list[str]:
        return [name for name in self._entries if name != "__metadata__"]

    def add(self, name: str, tensor: Tensor) -> None:
        self.size += tensor.nbytes
        if tensor.nbytes % ALIGNMENT_BYTES:
            self._deferred.append((name, tensor))
        else:
            self._write(name, tensor)

    def close(self) -> None:
        for name, tensor in sorted(self._deferred, key=lambda deferred: -deferred[1].element_size()):
            self._write(name, tensor)
        header = json.dumps(self._entries, separators=(",", ":")).encode()
        if len(header) > self._header_bytes:
            raise RuntimeError(
                f"the header of {self.path} has {len(header)} bytes, but only {self._header_bytes} were reserved"
            )
        self.file.seek(0)
        self.file.write(struct.pack("<Q", self._header_bytes) + header.ljust(self._header_bytes))
        self.file.close()

    def _write(self, name: str, tensor: Tensor) -> None:
        begin, self._offset = self._offset, self._offset + tensor.nbytes
        self._entries[name] = make_header_entry(tensor.dtype, tensor.shape, begin, tensor.nbytes)
        self.file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
