"""Types for checking whether a spec fits its model, as far as the model's registration shows."""

from dataclasses import dataclass
from enum import Enum, auto


class AdapterUse(Enum):
    """How a job treats a LoRA adapter, whether given as `adapter` or as `model` instead of a base model."""

    REFUSED = auto()
    OPTIONAL = auto()
    REQUIRED = auto()


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """The checkpoint or GGUF file that a job will load.

    Attributes:
        is_gguf: Whether it is a GGUF file.
        is_quantized: Whether its weights are quantized; False if unknown.
        has_adapter: Whether an adapter is applied to it.
    """

    is_gguf: bool
    is_quantized: bool
    has_adapter: bool


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """The reason why a spec cannot run: the field at fault, what is wrong with it, and what to do."""

    param: str
    message: str
