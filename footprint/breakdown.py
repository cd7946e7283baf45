"""The answer to every question about memory: bytes, by what takes them."""

from dataclasses import dataclass
from typing import Literal

GIB = 2**30

Place = Literal["device", "host"]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that an operation takes at the moment when it takes most.

    Attributes:
        weights: Of the model, an adapter included.
        cache: Keys and values.
        activations: Hidden states, logits and what kernels need in between.
        gradients: Of the weights that are trained.
        optimizer: AdamW's moments.
        least: What is needed whatever the lengths and the batch are.
        place: Where: "device" is the GPU, or the host's memory if there is none; "host" is always the host's.
    """

    weights: int
    cache: int = 0
    activations: int = 0
    gradients: int = 0
    optimizer: int = 0
    least: int = 0
    place: Place = "device"

    @property
    def total(self) -> int:
        """Sum of the parts."""
        return self.weights + self.cache + self.activations + self.gradients + self.optimizer


def in_gib(count: int) -> str:
    """A number of bytes for people, e.g. "13.98 GiB"."""
    return f"{count / GIB:.2f} GiB"
