"""Print how much private memory quantizing a checkpoint takes; run by test_streaming.py.

Usage: `loaded_memory.py CHECKPOINT while-loading|after-loading`
"""

import json
import sys
import threading
from pathlib import Path
from typing import Self

import bitsandbytes  # noqa: F401 - what it takes itself does not count
import torch

from baichuan_core import load_model  # imported here, so that what the import takes does not count


def own_memory() -> int:
    """Return the bytes of memory that are not mapped files."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


class Peak:
    """Measures the peak private memory while the block runs."""

    def __enter__(self) -> Self:
        self.bytes = own_memory()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.001):
            self.bytes = max(self.bytes, own_memory())


def main(checkpoint: str, when: str) -> None:
    """Load and quantize the checkpoint, and print the memory."""
    torch.set_num_threads(1)
    model = None
    if when == "after-loading":
        model = load_model(checkpoint, dtype="float32", device="cpu")
    before = own_memory()
    with Peak() as peak:
        if model is None:
            model = load_model(checkpoint, device_map="auto", quantization="nf4", quantize_head=True)
        else:
            model.quantize(4, quantize_head=True)
    figures = {"before": before, "peak": peak.bytes, "after": own_memory(), "model": model.get_memory_footprint()}
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
