"""Checks whether an unquantized model fits in memory, because quantizing it needs much less memory than running it."""

from pathlib import Path

from baichuan_core.checkpoint import read_config
from baichuan_core.free_memory import free_bytes
from baichuan_core.memory import ModelShape, Precision, estimate_scoring, format_gib


def explain_memory_shortage(checkpoint: Path, device: str | None, *, batch_tokens: int) -> str | None:
    """Return why an unquantized model cannot score `batch_tokens` tokens at once on `device`; None if it can."""
    config = read_config(checkpoint).to_dict()
    needed = estimate_scoring(ModelShape.from_config(config), Precision.from_config(config), tokens=batch_tokens).total
    free = free_bytes(device)
    if needed <= free:
        return None
    return (
        f"the unquantized model needs {format_gib(needed)}, but only {format_gib(free)} are free: "
        "measure on a machine with more memory"
    )
