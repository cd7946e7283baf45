"""Calibrates a checkpoint, resuming an earlier run if there is one, and loads the quantized weights."""

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
from .storage_format import FourBitFormat, dequantize

SAMPLED_VALUES_PER_TENSOR = 64  # number of values per tensor in a checkpoint's fingerprint


class CalibratedWeights:
    """The quantized weights of all blocks, loaded from disk on demand, one block at a time."""

    def __init__(self, finished: FinishedBlocks, code: FourBitFormat) -> None:
        self._finished = finished
        self._endings = stored_endings(code.method, double_quantization=code.double_quantization)
        self._loaded: tuple[int, dict[str, Tensor]] | None = None

    def load_weight(self, name: str) -> QuantizedWeight:
        """Return a quantized weight by name, such as "model.layers.3.mlp.up_proj.weight"."""
        number = int(name.split(".")[2])
        if self._loaded is None or self._loaded[0] != number:
            self._loaded = number, self._finished.load_tensors(number)
        layer = name.removesuffix("weight")
        tensors = {ending: self._loaded[1][layer + ending] for ending in self._endings}
        return QuantizedWeight(tensors, dequantize(tensors))


def calibrate(
    reader: TensorReader,
    config: BaichuanConfig,
    rows: Tensor,
    code: FourBitFormat,
    *,
    device: torch.device,
    checkpoints: Path,
    resume_from: Path | None,
    on_progress: ProgressCallback,
) -> CalibratedWeights:
    """Choose the 4-bit codes of all blocks.

    Args:
        reader: The unquantized checkpoint.
        config: Configuration of the checkpoint.
        rows: Token ids of the calibration text, [rows, length].
        code: The 4-bit format to quantize to.
        device: Device to compute on.
        checkpoints: Folder to save each block in as soon as it is done; blocks saved there by the same run are reused.
        resume_from: The `checkpoints` folder of an earlier run.
        on_progress: Called after each block.

    Raises:
        CheckpointError: A block produces NaN, or a folder contains blocks of a different calibration.
    """
    identity = {
        "checkpoint": _hash_checkpoint(reader, config),
        "text": hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
        "method": code.method,
        "double_quantization": code.double_quantization,
    }
    finished = FinishedBlocks(checkpoints, identity)
    if resume_from is not None:
        finished.copy_from(resume_from)
    BlockCalibrator(reader, config, code, device).run(rows, finished, on_progress)
    return CalibratedWeights(finished, code)


def _hash_checkpoint(reader: TensorReader, config: BaichuanConfig) -> str:
    """Hash the configuration and a sample of the values of each tensor."""
    digest = hashlib.sha256(config.to_json_string(use_diff=False).encode())
    for name in sorted(reader.names):
        tensor = reader.read(name)
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(
            tensor.reshape(-1)[:: max(tensor.numel() // SAMPLED_VALUES_PER_TENSOR, 1)].double().numpy().tobytes()
        )
    return digest.hexdigest()
