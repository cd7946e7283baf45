"""Prints what rewriting a checkpoint takes of a process's own memory; run by test_rewriting_memory.py.

Use: `python -m tests.baichuan_core.rewriting_memory JSON`, with the fields of `Task`.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baichuan_core import QuantizationOptions, convert, quantize
from baichuan_core.quantization import Calibration
from tests.baichuan_core.quantization.loaded_memory import Peak, own_memory

SMALLEST_VOCABULARY = 1000


@dataclass(frozen=True)
class Task:
    """What to measure, and a small checkpoint to do it with first, for all that is loaded once.

    Attributes:
        sequences: Rows of a calibration; 0 for none.
        options: Of `QuantizationOptions`, or else of `convert`.
    """

    operation: str
    warm: str
    checkpoint: str
    folder: str
    options: dict[str, Any]
    sequences: int = 0

    def rewrite(self, checkpoint: str, output: Path) -> None:
        """Do it."""
        if self.operation == "convert":
            convert(checkpoint, output, **self.options)
            return
        calibration = random_tokens(self.sequences) if self.sequences else None
        quantize(checkpoint, output, QuantizationOptions(**self.options, calibration=calibration), device="cpu")


def random_tokens(sequences: int) -> Calibration:
    """To calibrate on."""
    ids = torch.randint(5, SMALLEST_VOCABULARY, (sequences * 512,), generator=torch.Generator().manual_seed(0))
    return Calibration(token_ids=[ids.tolist()], sequences=sequences)


def main(content: str) -> None:
    """Do it twice, and print what the second time took."""
    torch.set_num_threads(1)
    task = Task(**json.loads(content))
    task.rewrite(task.warm, Path(task.folder) / "warm")
    before = own_memory()
    with Peak() as peak:
        task.rewrite(task.checkpoint, Path(task.folder) / "measured")
    sys.stdout.write(str(peak.bytes - before))


if __name__ == "__main__":
    main(*sys.argv[1:])
