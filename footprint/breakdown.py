"""The memory that an operation needs, broken down into weights, cache, activations, gradients and optimizer."""

from dataclasses import dataclass
from typing import Literal

GIB = 2**30

MemoryPlace = Literal["device", "host"]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Peak memory of an operation, in bytes.

    Attributes:
        weights: Weights of the model, including an adapter.
        cache: Keys and values.
        activations: Hidden states, logits and temporary memory of kernels.
        gradients: Gradients of the trained weights.
        optimizer: Moments of AdamW.
        least: Minimum needed regardless of sequence lengths and batch size.
        place: "device" is the GPU, or host memory if there is no GPU; "host" is always host memory.
    """

    weights: int
    cache: int = 0
    activations: int = 0
    gradients: int = 0
    optimizer: int = 0
    least: int = 0
    place: MemoryPlace = "device"

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.cache + self.activations + self.gradients + self.optimizer


def format_gib(count: int) -> str:
    """Format a number of bytes in GiB, for example "13.98 GiB"."""
    return f"{count / GIB:.2f} GiB"
