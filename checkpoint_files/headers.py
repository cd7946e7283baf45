"""Reads the names, dtypes and shapes of the tensors in a file without loading weights or running code."""

import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeGuard

from .errors import FileError
from .field_rules import is_whole, show
from .json_files import LFS_POINTER, reject_lfs_pointer

MAX_HEADER_BYTES = 100_000_000  # limit of the safetensors library
# Pickles that precede the tensors in a file of torch before 1.6: magic number, protocol version, system information.
LEGACY_PREAMBLE_PICKLES = 3


@dataclass(frozen=True, slots=True)
class Header:
    """The dtype and shape of a stored tensor.

    Attributes:
        dtype: The dtype's name in the file, e.g. "BF16" or "BFloat16Storage".
        shape: Size of each dimension.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether the elements are floats."""
        return self.dtype.startswith(("F", "BF", "Float", "Half", "Double"))


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in a `.bin` file that is not a tensor."""

    value: Any


Headers = Mapping[str, Header | StoredObject]


def read_headers(file: Path) -> Headers:
    """Return the headers of the tensors in a safetensors or `.bin` file, and any other objects, by name.

    Raises:
        FileError: The file is missing, truncated, damaged or a git-LFS pointer.
    """
    if not file.is_file():
        raise FileError(f"{file} is missing: copy or download this shard of the checkpoint")
    with file.open("rb") as stream:
        reject_lfs_pointer(file, stream.read(len(LFS_POINTER)))
        stream.seek(0)
        try:
            return _read_safetensors(stream, file) if file.suffix == ".safetensors" else _read_pickle(stream, file)
        except pickle.UnpicklingError as error:
            raise FileError(
                f"{file} is damaged or contains objects other than tensors, which are never loaded ({error}): "
                "if you trust the file, convert it to safetensors elsewhere, otherwise download it again"
            ) from error
        except FileError:
            raise
        except Exception as error:
            raise FileError(f"{file} is damaged ({error}): copy or download it again") from error


def _read_safetensors(stream: IO[bytes], file: Path) -> Headers:
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {length} bytes")
    entries = json.loads(stream.read(length))
    if not isinstance(entries, dict):
        raise FileError(f"{file} is damaged (its header is not a JSON object): copy or download it again")
    entries.pop("__metadata__", None)
    for name, about in entries.items():
        if not _describes_tensor(about):
            raise ValueError(f"its header has no valid dtype, shape and data_offsets for the tensor {show(name)}")
    end = max((about["data_offsets"][1] for about in entries.values()), default=0)
    if file.stat().st_size != 8 + length + end:
        raise ValueError(f"it has {file.stat().st_size} bytes instead of {8 + length + end}")
    return {name: Header(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}


def _describes_tensor(about: Any) -> bool:
    """Whether an entry of a safetensors header has the fields of a tensor."""
    if not isinstance(about, dict) or not isinstance(about.get("dtype"), str):
        return False
    shape, offsets = about.get("shape"), about.get("data_offsets")
    return _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]  # noqa: PLR2004


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(is_whole(size) and size >= 0 for size in value)


def _read_pickle(stream: IO[bytes], file: Path) -> Headers:
    content = _unpickle_archive(stream) if zipfile.is_zipfile(stream) else _unpickle_legacy(stream)
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise FileError(f"{file} is not a mapping of names to tensors: copy or download the checkpoint again")
    return {name: one if isinstance(one, Header) else StoredObject(one) for name, one in content.items()}


def _unpickle_archive(stream: IO[bytes]) -> object:
    with zipfile.ZipFile(stream) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        if archive.getinfo(name).file_size > MAX_HEADER_BYTES:
            raise ValueError("its index of tensors is too long")
        with archive.open(name) as pickled:
            return _HeaderUnpickler(pickled).load()


def _unpickle_legacy(stream: IO[bytes]) -> object:
    stream.seek(0)
    for _ in range(LEGACY_PREAMBLE_PICKLES):
        _HeaderUnpickler(stream).load()
    return _HeaderUnpickler(stream).load()


class _HeaderUnpickler(pickle.Unpickler):
    """Unpickler that turns tensors into headers and rejects any class or function that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, _offset, size, *_: Header(storage, tuple(size))
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
            case "torch", "Size":
                return tuple
            case "torch", "device":
                return lambda *kind: kind
            case "torch", _:
                return name  # a storage class or a dtype
            case _:
                raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def persistent_load(self, pid: Any) -> str:
        """Return the dtype of a storage instead of loading its elements."""
        return str(pid[1])
