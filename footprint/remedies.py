"""What would fit where something does not."""

from collections.abc import Iterator

from .finetuning import Training, finetuning
from .precision import Precision
from .shape import Shape

# From the best quality to the least memory.
PRECISIONS = (
    Precision(),
    Precision(quantization="int8"),
    Precision(quantization="nf4"),
    Precision(quantization="nf4", quantize_head=True),
)


def smaller_models(shape: Shape, than: int) -> Iterator[tuple[str, int]]:
    """Ways to hold the weights in fewer bytes, with what each takes."""
    for precision in PRECISIONS:
        if (needed := precision.weight_bytes(shape)) < than:
            yield f"as {precision.label}", needed


def smaller_trainings(shape: Shape, than: int) -> Iterator[tuple[str, int]]:
    """Ways to train in fewer bytes, with the least that each takes."""
    for precision in PRECISIONS:
        needed = finetuning(shape, precision, Training(method="lora")).least
        if needed < than:
            yield f"with method lora on {precision.label}", needed
