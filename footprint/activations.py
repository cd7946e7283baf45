"""Bytes per token of the tensors that training keeps for the backward pass of `baichuan_core`'s model.

All numbers are bytes per token and per unit of a layer width. They follow from the operations of a block and the
tensors that autograd saves for each of them; tests compare them with the memory actually allocated.
"""

from dataclasses import dataclass

from .precision import Precision
from .shape import ModelShape


@dataclass(frozen=True, slots=True)
class SavedActivations:
    """Bytes per token that one kind of training keeps for the backward pass, per unit of a layer width.

    Attributes:
        hidden: Tensors that a block keeps, per unit of the hidden size.
        rotation: Additional tensors that a block with RoPE keeps, per unit of the hidden size.
        intermediate: Tensors that a block keeps, per unit of the width of the feed-forward layers.
        stream: Tensors that a block keeps with gradient checkpointing, per unit of the hidden size.
        stream_intermediate: The same, per unit of the width of the feed-forward layers. bitsandbytes' int8 layers keep
            their inputs in a way that checkpointing cannot prevent.
        outside_blocks: The last norm and other tensors outside the blocks, per unit of the hidden size.
        backward: Gradients that exist at the same time inside a block, per unit of the hidden size.
        backward_intermediate: The same, per unit of the width of the feed-forward layers.
    """

    hidden: float
    rotation: float
    intermediate: float
    stream: float
    outside_blocks: float
    backward: float
    backward_intermediate: float
    stream_intermediate: float = 0

    def block_bytes(self, shape: ModelShape) -> float:
        """Return the bytes per token that one block keeps for the backward pass."""
        rotation = self.rotation if shape.position_embedding == "rope" else 0
        return (self.hidden + rotation) * shape.hidden_size + self.intermediate * shape.intermediate_size

    def checkpointed_block_bytes(self, shape: ModelShape) -> float:
        """Return the bytes per token that one block keeps for the backward pass with gradient checkpointing."""
        return self.stream * shape.hidden_size + self.stream_intermediate * shape.intermediate_size

    def block_gradient_bytes(self, shape: ModelShape) -> float:
        """Return the bytes per token of the gradients inside the block that is being differentiated."""
        return self.backward * shape.hidden_size + self.backward_intermediate * shape.intermediate_size


FULL_ACTIVATIONS, FULL_MIXED_ACTIVATIONS = (
    SavedActivations(45, 3, 16, 4, 15, 8, 8),
    SavedActivations(32.5, 1.5, 8, 4, 13, 11, 3),
)
LORA_ACTIVATIONS, LORA_MIXED_ACTIVATIONS = (
    SavedActivations(33, 7, 12, 4, 6, 16, 8),
    SavedActivations(22.5, 3.5, 6, 2, 6, 17, 1),
)
LORA_4_BIT_ACTIVATIONS, LORA_4_BIT_MIXED_ACTIVATIONS = (
    SavedActivations(33, 7, 12, 4, 6, 10, 8),
    SavedActivations(22, 2, 6, 2, 6, 7, 4),
)
LORA_INT8_ACTIVATIONS = SavedActivations(42.5, 3.5, 16, 16, 6, 9, 4, stream_intermediate=4)
LORA_INT8_MIXED_ACTIVATIONS = SavedActivations(30, 2, 8, 14, 6, 16, 1.5, stream_intermediate=2)


def get_saved_activations(precision: Precision, *, full: bool) -> SavedActivations:
    """Return the bytes of activations that training keeps at this precision; half precision means mixed precision."""
    mixed = precision.dtype != "float32"
    match precision.quantization:
        case _ if full:
            return FULL_MIXED_ACTIVATIONS if mixed else FULL_ACTIVATIONS
        case None:
            return LORA_MIXED_ACTIVATIONS if mixed else LORA_ACTIVATIONS
        case "int8":
            return LORA_INT8_MIXED_ACTIVATIONS if mixed else LORA_INT8_ACTIVATIONS
        case "nf4" | "fp4":
            return LORA_4_BIT_MIXED_ACTIVATIONS if mixed else LORA_4_BIT_ACTIVATIONS
