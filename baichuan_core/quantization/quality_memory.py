"""Whether an unquantized model fits beside what is there: a machine that only quantizes may be too small for it."""

from pathlib import Path

from baichuan_core.checkpoint import read_config
from baichuan_core.free_memory import free_bytes
from baichuan_core.memory import Precision, Shape, in_gib, scoring


def too_little_memory(checkpoint: Path, device: str | None, *, batch_tokens: int) -> str | None:
    """Why an unquantized model cannot score a text on `device`, `batch_tokens` tokens at once; None if it can."""
    config = read_config(checkpoint).to_dict()
    needed = scoring(Shape.from_config(config), Precision.from_config(config), tokens=batch_tokens).total
    free = free_bytes(device)
    if needed <= free:
        return None
    return f"the unquantized model needs {in_gib(needed)} and {in_gib(free)} are free here: measure where it fits"
