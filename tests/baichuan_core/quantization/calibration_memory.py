"""Prints what calibrating a checkpoint takes of a process's own memory; run by test_calibration_memory.py.

Use: `python -m tests.baichuan_core.quantization.calibration_memory WARM CHECKPOINT SEQUENCES FOLDER`.
"""

import sys
from pathlib import Path

import torch

from baichuan_core import QuantizationOptions, quantize
from baichuan_core.quantization import Calibration
from tests.baichuan_core.quantization.loaded_memory import Peak, own_memory

SMALLEST_VOCABULARY = 1000


def calibrate(checkpoint: str, output: Path, sequences: int) -> None:
    """Quantize with codes that are chosen on random tokens."""
    ids = torch.randint(5, SMALLEST_VOCABULARY, (sequences * 512,), generator=torch.Generator().manual_seed(0))
    calibration = Calibration(token_ids=[ids.tolist()], sequences=sequences)
    quantize(checkpoint, output, QuantizationOptions("nf4", calibration=calibration), device="cpu")


def main(warm: str, checkpoint: str, sequences: str, folder: str) -> None:
    """Calibrate a small checkpoint for all that is loaded once, then the one that is asked for."""
    torch.set_num_threads(1)
    calibrate(warm, Path(folder) / "warm", 4)
    before = own_memory()
    with Peak() as peak:
        calibrate(checkpoint, Path(folder) / "measured", int(sequences))
    sys.stdout.write(str(peak.bytes - before))


if __name__ == "__main__":
    main(*sys.argv[1:])
