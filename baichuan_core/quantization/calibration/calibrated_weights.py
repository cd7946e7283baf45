"""Calibrates a checkpoint, or goes on where an earlier run was ended, and hands out the quantized weights."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from baichuan_core.checkpoint import TensorReader
from baichuan_core.checkpoint.quantized_weights import QuantizedWeight
from baichuan_core.config import BaichuanConfig
from baichuan_core.progress import ProgressCallback
from checkpoint_files import stored_endings

from .blocks import BlockCalibrator
from .finished_blocks import FinishedBlocks
from .stored_form import FourBitCode, restore

SAMPLE = 64  # values of each weight that tell one checkpoint from another


class CalibratedWeights:
    """The weights of all blocks, from the disk as they are asked for; one block is in memory."""

    def __init__(self, finished: FinishedBlocks, code: FourBitCode) -> None:
        self._finished = finished
        self._endings = stored_endings(code.method, double_quantization=code.double_quantization)
        self._loaded: tuple[int, dict[str, Tensor]] | None = None

    def weight(self, name: str) -> QuantizedWeight:
        """The stored form of a weight, e.g. "model.layers.3.mlp.up_proj.weight"."""
        number = int(name.split(".")[2])
        if self._loaded is None or self._loaded[0] != number:
            self._loaded = number, self._finished.tensors(number)
        layer = name.removesuffix("weight")
        tensors = {ending: self._loaded[1][layer + ending] for ending in self._endings}
        return QuantizedWeight(tensors, restore(tensors))


def calibrate(
    reader: TensorReader,
    config: BaichuanConfig,
    rows: Tensor,
    code: FourBitCode,
    *,
    device: torch.device,
    checkpoints: Path,
    resume_from: Path | None,
    on_progress: ProgressCallback,
) -> CalibratedWeights:
    """Choose the codes of all blocks.

    Args:
        reader: The unquantized checkpoint.
        config: Its configuration.
        rows: Token ids of the calibration text, [rows, length].
        code: What the weights become.
        device: Where to compute.
        checkpoints: Folder that gets each block as soon as it is done; what lies there of the same run is used.
        resume_from: The folder of an earlier run.
        on_progress: Told after each block.

    Raises:
        CheckpointError: A block computes NaN, or a folder holds blocks of another run.
    """
    identity = {
        "checkpoint": _fingerprint(reader, config),
        "text": hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
        "method": code.method,
        "double_quantization": code.double_quantization,
    }
    finished = FinishedBlocks(checkpoints, identity)
    if resume_from is not None:
        finished.take_over(resume_from)
    BlockCalibrator(reader, config, code, device).run(rows, finished, on_progress)
    return CalibratedWeights(finished, code)


def _fingerprint(reader: TensorReader, config: BaichuanConfig) -> str:
    """A hash of the configuration and of some numbers of each tensor."""
    digest = hashlib.sha256(config.to_json_string(use_diff=False).encode())
    for name in sorted(reader.names):
        tensor = reader.read(name)
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1)[:: max(tensor.numel() // SAMPLE, 1)].double().numpy().tobytes())
    return digest.hexdigest()
