"""Checks whether an unquantized model fits in memory, because quantizing it needs much less memory than running it."""

from pathlib import Path

from baichuan_core.checkpoint import read_config
from baichuan_core.free_memory import free_bytes
from baichuan_core.memory import Precision, Shape, estimate_scoring, in_gib


def explain_missing_memory(checkpoint: Path, device: str | None, *, batch_tokens: int) -> str | None:
    """Return why an unquantized model cannot score `batch_tokens` tokens at once on `device`; None if it can."""
    config = read_config(checkpoint).to_dict()
    needed = estimate_scoring(Shape.from_config(config), Precision.from_config(config), tokens=batch_tokens).total
    free = free_bytes(device)
    if needed <= free:
        return None
    return (
        f"the unquantized model needs {in_gib(needed)}, but only {in_gib(free)} are free: "
        "measure on a machine with more memory"
    )
