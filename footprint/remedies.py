"""Smaller variants of an operation that does not fit into memory."""

from collections.abc import Iterator

from .finetuning import TrainingSettings, estimate_finetuning
from .precision import Precision
from .shape import ModelShape

# Ordered from best quality to least memory.
PRECISIONS = (
    Precision(),
    Precision(quantization="int8"),
    Precision(quantization="nf4"),
    Precision(quantization="nf4", quantize_head=True),
)


def find_smaller_models(shape: ModelShape, than: int) -> Iterator[tuple[str, int]]:
    """Yield precisions whose weights take fewer bytes than `than`, each with its size."""
    for precision in PRECISIONS:
        if (needed := precision.weight_bytes(shape)) < than:
            yield f"as {precision.label}", needed


def find_smaller_finetuning_options(shape: ModelShape, than: int) -> Iterator[tuple[str, int]]:
    """Yield ways to fine-tune that need fewer bytes than `than`, each with its minimum memory."""
    for precision in PRECISIONS:
        needed = estimate_finetuning(shape, precision, TrainingSettings(method="lora")).least
        if needed < than:
            yield f"with method lora on {precision.label}", needed
