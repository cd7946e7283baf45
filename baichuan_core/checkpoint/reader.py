"""Reads the tensors of a checkpoint one at a time, without loading the rest."""

import json
import pickle
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from baichuan_core.errors import CheckpointError

# Baichuan 1 7B stores these; they follow from the configuration.
_DERIVED = re.compile(r"rotary_emb\.inv_freq$")
# Where several are there, the one that transformers takes.
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class TensorReader:
    """The tensors of a checkpoint directory: safetensors or `.bin`, in one file or in shards.

    Safetensors files are memory-mapped; of `.bin` files, one at a time is open, unpickled with
    `weights_only=True`. Persisted `inv_freq` buffers are left out.

    Args:
        checkpoint: The directory.
        weights: The file of weights or index in it; found by its usual names if not given.

    Raises:
        CheckpointError: No weights, or a shard that is missing, damaged or no checkpoint; the message names
            the file.
    """

    def __init__(self, checkpoint: Path, weights: Path | None = None) -> None:
        self.checkpoint = checkpoint
        self._stack = ExitStack()
        self._mapped: dict[Path, Any] = {}
        self._unpickled: tuple[Path, Mapping[str, Tensor]] | None = None
        source = weights or _weights_file(checkpoint)
        promised = _weight_map(source) if source.suffix == ".json" else None
        self.files = sorted({source} if promised is None else {checkpoint / file for file in promised.values()})
        self._where: dict[str, Path] = {}
        for file in self.files:
            self._where |= dict.fromkeys(self._names_in(file), file)
        if promised is not None:
            self._check_promises(promised)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mapped.clear()
        self._unpickled = None
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """Names of all tensors, file by file."""
        return [name for name in self._where if not _DERIVED.search(name)]

    @property
    def total_bytes(self) -> int:
        """Size of all weight files."""
        return sum(file.stat().st_size for file in self.files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, read from the file's header where it has one."""
        file = self._where[name]
        if file.suffix == ".safetensors":
            return tuple(self._map(file).get_slice(name).get_shape())
        return tuple(self._unpickle(file)[name].shape)

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU, backed by the file where it can be.

        Raises:
            CheckpointError: The checkpoint has no such tensor.
        """
        if name not in self._where:
            raise CheckpointError(f"{self.checkpoint} has no tensor {name}: copy the checkpoint again, whole")
        file = self._where[name]
        tensor: Tensor = (
            self._map(file).get_tensor(name) if file.suffix == ".safetensors" else self._unpickle(file)[name]
        )
        return tensor

    def _names_in(self, file: Path) -> list[str]:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing: copy or download this shard of the checkpoint")
        if file.suffix == ".safetensors":
            return list(self._map(file).keys())
        return list(self._unpickle(file))

    def _map(self, file: Path) -> Any:
        if file not in self._mapped:
            try:
                self._mapped[file] = self._stack.enter_context(safe_open(file, framework="pt", device="cpu"))
            except (SafetensorError, OSError) as error:
                raise _damaged(file, error) from error
        return self._mapped[file]

    def _unpickle(self, file: Path) -> Mapping[str, Tensor]:
        if self._unpickled is None or self._unpickled[0] != file:
            self._unpickled = None
            self._unpickled = (file, _load_pickled(file))
        return self._unpickled[1]

    def _check_promises(self, promised: Mapping[str, str]) -> None:
        for name, file in promised.items():
            if self._where.get(name) != self.checkpoint / file:
                raise CheckpointError(
                    f"{self.checkpoint / file} lacks the tensor {name} that the index promises: "
                    "copy or download this shard again"
                )


def _weights_file(checkpoint: Path) -> Path:
    for name in (*_SAFETENSORS, *_PICKLED):
        if (checkpoint / name).is_file():
            return checkpoint / name
    raise CheckpointError(f"{checkpoint} holds no weights: expected one of {', '.join((*_SAFETENSORS, *_PICKLED))}")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = set(weight_map.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of shards ({error}): copy or download it again") from error
    for file in files:
        if Path(file).name != file:
            raise CheckpointError(f"{index} points outside its directory ({file}): shards must lie beside it")
    return weight_map


def _load_pickled(file: Path) -> Mapping[str, Tensor]:
    try:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:
            # Files of torch before 1.6 are no archives and cannot be mapped.
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} is damaged or holds more than tensors, which is never run: convert it to safetensors "
            f"where you trust it, or download it again ({_first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise _damaged(file, error) from error
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{file} holds no tensors by name: copy or download the checkpoint again")
    strange = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise CheckpointError(
            f"{file} holds {strange[0]}, which is no tensor (an old 4-bit checkpoint?): use the unquantized checkpoint"
        )
    tensors: Mapping[str, Tensor] = content
    return tensors


def _damaged(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file} is damaged ({_first_line(error)}): copy or download it again")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
