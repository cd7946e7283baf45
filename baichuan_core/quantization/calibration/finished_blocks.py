"""The blocks that are done, on the disk, so that a later run can go on from them."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from baichuan_core.checkpoint import make_directory
from baichuan_core.errors import CheckpointError

IDENTITY_FILE = "calibration.json"


class FinishedBlocks:
    """A folder with the quantized tensors of each finished block, and the hidden states after the last of them.

    A file has its name only when it is whole, and states are written before the block that they follow, so a killed
    run leaves nothing that misleads.

    Args:
        folder: Made if need be; of one run alone.
        identity: What the result depends on, e.g. a hash of the weights and of the calibration text.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object]) -> None:
        self._folder = folder
        self._identity = json.dumps(identity, indent=2, sort_keys=True)
        make_directory(folder)
        if any(folder.glob("block-*")):
            self._check(folder)
        (folder / IDENTITY_FILE).write_text(self._identity, encoding="utf-8")

    def take_over(self, earlier: Path) -> None:
        """Copy what an earlier run has finished.

        Raises:
            CheckpointError: It was another model, text or method.
        """
        if earlier.resolve() == self._folder.resolve() or not (earlier / IDENTITY_FILE).is_file():
            return
        self._check(earlier)
        for file in sorted(earlier.glob("*.safetensors")):
            shutil.copyfile(file, self._folder / f"{file.name}.partial")
            (self._folder / f"{file.name}.partial").replace(self._folder / file.name)

    @property
    def count(self) -> int:
        """How many blocks are done, the states after the last of them included."""
        done = 0
        while self._block(done).is_file():
            done += 1
        while done and not self._states(done).is_file():
            done -= 1
        return done

    def add(self, number: int, tensors: Mapping[str, Tensor], states: Mapping[str, Tensor]) -> None:
        """Keep a block's quantized tensors by their names in the checkpoint, and the states after it."""
        _save(states, self._states(number + 1))
        _save(tensors, self._block(number))
        self._states(number).unlink(missing_ok=True)

    def tensors(self, number: int) -> dict[str, Tensor]:
        """The quantized tensors of a block."""
        return _load(self._block(number))

    def states(self, count: int) -> dict[str, Tensor]:
        """The states after the first `count` blocks."""
        return _load(self._states(count))

    def _block(self, number: int) -> Path:
        return self._folder / f"block-{number:05}.safetensors"

    def _states(self, count: int) -> Path:
        return self._folder / f"states-{count:05}.safetensors"

    def _check(self, folder: Path) -> None:
        file = folder / IDENTITY_FILE
        if not file.is_file() or file.read_text(encoding="utf-8") != self._identity:
            raise CheckpointError(
                f"{folder} holds blocks of another calibration (other weights, text or method): "
                "start without it, or name another folder for checkpoints"
            )


def _save(tensors: Mapping[str, Tensor], file: Path) -> None:
    partial = file.with_name(f"{file.name}.partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(file)


def _load(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged ({error}): start without this folder") from error
