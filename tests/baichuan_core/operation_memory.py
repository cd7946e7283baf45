"""Print the private memory that an operation on a checkpoint uses; run by test_operation_memory.py.

Use: `python -m tests.baichuan_core.operation_memory JSON`, with the fields of `Task`.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baichuan_core import GenerationOptions, GenerationRequest, QuantizationOptions, convert, generate, quantize
from baichuan_core.quantization import Calibration
from tests.baichuan_core.quantization.loaded_memory import Peak, own_memory

SMALLEST_VOCABULARY = 1000


@dataclass(frozen=True)
class Task:
    """An operation to measure, and a small checkpoint for a first run, which loads everything that is loaded only once.

    Attributes:
        sequences: Rows of a calibration; 0 for none.
        options: Of `QuantizationOptions`, of `GenerationOptions`, or of `convert`.
        prompts: To be answered.
    """

    operation: str
    warm: str
    checkpoint: str
    folder: str
    options: dict[str, Any]
    sequences: int = 0
    prompts: tuple[str, ...] = ()

    def perform(self, checkpoint: str, output: Path) -> None:
        """Run the operation."""
        if self.operation == "convert":
            convert(checkpoint, output, **self.options)
            return
        if self.operation == "generate":
            requests = [GenerationRequest(prompt=prompt) for prompt in self.prompts]
            generate(checkpoint, requests, output, GenerationOptions(**self.options))
            return
        calibration = random_tokens(self.sequences) if self.sequences else None
        quantize(checkpoint, output, QuantizationOptions(**self.options, calibration=calibration), device="cpu")


def random_tokens(sequences: int) -> Calibration:
    """Return random tokens to calibrate on."""
    ids = torch.randint(5, SMALLEST_VOCABULARY, (sequences * 512,), generator=torch.Generator().manual_seed(0))
    return Calibration(token_ids=[ids.tolist()], sequences=sequences)


def main(content: str) -> None:
    """Run the operation twice, and print the memory of the second run."""
    torch.set_num_threads(1)
    task = Task(**json.loads(content))
    task.perform(task.warm, Path(task.folder) / "warm")
    before = own_memory()
    with Peak() as peak:
        task.perform(task.checkpoint, Path(task.folder) / "measured")
    sys.stdout.write(str(peak.bytes - before))


if __name__ == "__main__":
    main(*sys.argv[1:])
