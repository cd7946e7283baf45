"""What one token costs when training: tensors that the backward pass needs, counted in `baichuan_core`'s model.

All are bytes a token, for each unit of a width of the model. They follow from the operations of a block and from what
autograd keeps of each; tests compare them with what is allocated.
"""

from dataclasses import dataclass

from .precision import Precision
from .shape import Shape


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes a token in one way of training.

    Attributes:
        hidden: What a block keeps, times the hidden size.
        rotation: The same, to turn queries and keys (RoPE).
        intermediate: What a block keeps, times the width of the feed-forward layers.
        stream: What stays of a block under gradient checkpointing, times the hidden size.
        stream_intermediate: The same, times the width of the feed-forward layers: bitsandbytes' int8 layers hold on
            to their inputs in a way that checkpointing does not see.
        ends: The last norm and what surrounds the blocks, times the hidden size.
        backward: Gradients that live at once inside a block, times the hidden size.
        backward_intermediate: The same, times the width of the feed-forward layers.
    """

    hidden: float
    rotation: float
    intermediate: float
    stream: float
    ends: float
    backward: float
    backward_intermediate: float
    stream_intermediate: float = 0

    def block(self, shape: Shape) -> float:
        """Bytes a token that one block keeps."""
        turned = self.rotation if shape.position_embedding == "rope" else 0
        return (self.hidden + turned) * shape.hidden_size + self.intermediate * shape.intermediate_size

    def checkpointed_block(self, shape: Shape) -> float:
        """The same under gradient checkpointing."""
        return self.stream * shape.hidden_size + self.stream_intermediate * shape.intermediate_size

    def gradients_in_a_block(self, shape: Shape) -> float:
        """Bytes a token of gradients inside the block that is being differentiated."""
        return self.backward * shape.hidden_size + self.backward_intermediate * shape.intermediate_size


FULL, FULL_MIXED = Kept(45, 3, 16, 4, 15, 8, 8), Kept(32.5, 1.5, 8, 4, 13, 11, 3)
LORA, LORA_MIXED = Kept(33, 7, 12, 4, 6, 16, 8), Kept(22.5, 3.5, 6, 2, 6, 17, 1)
LORA_4_BIT, LORA_4_BIT_MIXED = Kept(33, 7, 12, 4, 6, 10, 8), Kept(22, 2, 6, 2, 6, 7, 4)
LORA_INT8 = Kept(42.5, 3.5, 16, 16, 6, 9, 4, stream_intermediate=4)
LORA_INT8_MIXED = Kept(30, 2, 8, 14, 6, 16, 1.5, stream_intermediate=2)


def kept(precision: Precision, *, full: bool) -> Kept:
    """What is kept in training at this precision; half precision means mixed precision."""
    mixed = precision.dtype != "float32"
    match precision.quantization:
        case _ if full:
            return FULL_MIXED if mixed else FULL
        case None:
            return LORA_MIXED if mixed else LORA
        case "int8":
            return LORA_INT8_MIXED if mixed else LORA_INT8
        case "nf4" | "fp4":
            return LORA_4_BIT_MIXED if mixed else LORA_4_BIT
