"""Saves calibrated blocks to disk, so that a later run can resume."""

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
    """A folder with the quantized tensors of each finished block and the hidden states after the last one.

    Files get their final names only when they are complete, and the hidden states after a block are written before the
    block itself. So every block in the folder is usable, even if the run is killed.

    Args:
        folder: The folder, used by one run only; created if it does not exist.
        identity: Everything the result depends on, e.g. hashes of the weights and of the calibration text.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object]) -> None:
        self._folder = folder
        self._identity = json.dumps(identity, indent=2, sort_keys=True)
        make_directory(folder)
        if any(folder.glob("block-*")):
            self._require_same_identity(folder)
        (folder / IDENTITY_FILE).write_text(self._identity, encoding="utf-8")

    def copy_from(self, earlier: Path) -> None:
        """Copy the finished blocks of an earlier run.

        Raises:
            CheckpointError: The earlier run had a different model, text or method.
        """
        if earlier.resolve() == self._folder.resolve() or not (earlier / IDENTITY_FILE).is_file():
            return
        self._require_same_identity(earlier)
        for file in sorted(earlier.glob("*.safetensors")):
            shutil.copyfile(file, self._folder / f"{file.name}.partial")
            (self._folder / f"{file.name}.partial").replace(self._folder / file.name)

    @property
    def count(self) -> int:
        """Number of finished blocks, up to the last one whose resulting hidden states are available."""
        done = 0
        while self._get_block_path(done).is_file():
            done += 1
        while done and not self._get_states_path(done).is_file():
            done -= 1
        return done

    def add(self, number: int, tensors: Mapping[str, Tensor], states: Mapping[str, Tensor]) -> None:
        """Save a block's quantized tensors, by their names in the checkpoint, and the hidden states after it."""
        _save_tensors(states, self._get_states_path(number + 1))
        _save_tensors(tensors, self._get_block_path(number))
        self._get_states_path(number).unlink(missing_ok=True)

    def load_tensors(self, number: int) -> dict[str, Tensor]:
        """Load the quantized tensors of a block."""
        return _load_tensors(self._get_block_path(number))

    def load_states(self, count: int) -> dict[str, Tensor]:
        """Load the hidden states after the first `count` blocks."""
        return _load_tensors(self._get_states_path(count))

    def _get_block_path(self, number: int) -> Path:
        return self._folder / f"block-{number:05}.safetensors"

    def _get_states_path(self, count: int) -> Path:
        return self._folder / f"states-{count:05}.safetensors"

    def _require_same_identity(self, folder: Path) -> None:
        file = folder / IDENTITY_FILE
        if not file.is_file() or file.read_text(encoding="utf-8") != self._identity:
            raise CheckpointError(
                f"{folder} contains blocks from a different calibration (different weights, text or method): "
                "start without this folder, or use a different one for checkpoints"
            )


def _save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    partial = file.with_name(f"{file.name}.partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(file)


def _load_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged ({error}): start again without this folder") from error
