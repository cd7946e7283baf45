"""Memory of fine-tuning as `baichuan_core.finetuning` does it: float32 trained weights and gradients, AdamW.

Three moments can be the one of most memory. When the backward pass begins, everything that it needs is kept and there
are no gradients yet (but for those of earlier batches of the same step). In its last block there are nearly all
gradients, and what this block needs. When it has ended there are all of them and nothing else. The largest counts.
"""

from dataclasses import dataclass, replace
from typing import Literal

from .activations import kept
from .breakdown import Footprint
from .precision import DTYPE_BYTES, Precision
from .shape import Shape

FinetuningMethod = Literal["full", "lora"]

FLOAT32 = DTYPE_BYTES["float32"]
MOMENTS = 2  # AdamW keeps the mean of the gradients and that of their squares
LOGITS = 3 * FLOAT32  # logits, their log-softmax, its gradient
TRAINED_NORM_LOGITS = 6 * FLOAT32  # and, by the norms, the quotient and two gradients
LORA_TARGET_ROWS = 3  # the adapter is on W_pack, whose output is three times the hidden size


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained.

    Attributes:
        method: "full" trains every weight, "lora" an adapter on `W_pack`.
        batch: Examples a batch.
        tokens: Length of the longest example.
        lora_rank: Of the adapter.
        gradient_checkpointing: Whether activations are computed twice and few of them kept.
        accumulation: Batches a step.
    """

    method: FinetuningMethod = "full"
    batch: int = 1
    tokens: int = 512
    lora_rank: int = 8
    gradient_checkpointing: bool = True
    accumulation: int = 1

    @property
    def positions(self) -> int:
        """Tokens in one forward pass."""
        return self.batch * self.tokens

    def trained_parameters(self, shape: Shape) -> int:
        """How many numbers are trained."""
        if self.method == "full":
            return shape.parameters
        return shape.layers * self.lora_rank * shape.hidden_size * (1 + LORA_TARGET_ROWS)


def finetuning(shape: Shape, precision: Precision, training: Training) -> Footprint:
    """Training a model.

    Args:
        shape: The model's.
        precision: How the base of an adapter is held, and what is computed in: bfloat16 is mixed precision. Full
            training keeps its weights in float32 whatever the checkpoint has.
        training: How.
    """
    trained = training.trained_parameters(shape)
    weights = _weights(shape, precision, training, trained)
    gradients, moments = trained * FLOAT32, trained * FLOAT32 * MOMENTS
    at_the_end = Footprint(weights, gradients=gradients, optimizer=moments, least=weights + gradients + moments)
    missing = FLOAT32 * (shape.embedding_and_head_parameters // 2 + shape.linear_parameters // shape.layers)
    in_the_last_block = replace(
        at_the_end,
        activations=_last_block_bytes(shape, precision, training),
        gradients=gradients if training.accumulation > 1 else max(0, gradients - missing),
    )
    at_the_start = replace(
        at_the_end,
        activations=_first_bytes(shape, precision, training),
        gradients=gradients if training.accumulation > 1 else 0,
    )
    return max(at_the_start, in_the_last_block, at_the_end, key=lambda moment: moment.total)


def _weights(shape: Shape, precision: Precision, training: Training, trained: int) -> int:
    """Bytes of the weights; training on a quantized base holds in float32 all that is not quantized."""
    if training.method == "full":
        return trained * FLOAT32
    if precision.quantization is not None:
        precision = replace(precision, dtype="float32")
    return precision.weight_bytes(shape) + trained * FLOAT32


def _first_bytes(shape: Shape, precision: Precision, training: Training) -> int:
    """Bytes beside weights and moments before gradients come: as the loss is made, differentiated, or in a block."""
    full = training.method == "full"
    per_token = kept(precision, full=full)
    block = per_token.block(shape)
    left, again = (per_token.checkpointed_block(shape), block) if training.gradient_checkpointing else (block, 0.0)
    ends = per_token.ends * shape.hidden_size
    # Mixed precision copies each trained weight once; gradient checkpointing drops the copies before going back.
    casts = DTYPE_BYTES["bfloat16"] * shape.parameters if full and precision.dtype != "float32" else 0
    casts_at_the_loss = 0 if training.gradient_checkpointing else casts
    beside_the_blocks = max(
        training.positions * (ends + LOGITS * shape.vocab_size) + casts,
        training.positions * (ends + _differentiated_logits(shape, full=full)) + casts_at_the_loss,
        training.positions * (again + per_token.gradients_in_a_block(shape)) + casts_at_the_loss,
    )
    return round(training.positions * shape.layers * left + beside_the_blocks) + precision.dequantized_layer_bytes(
        shape
    )


def _differentiated_logits(shape: Shape, *, full: bool) -> int:
    """Bytes a token at the loss, with the gradients; a normalised head that is trained has them of its norms too."""
    return shape.vocab_size * (TRAINED_NORM_LOGITS if full and shape.norm_head else LOGITS)


def _last_block_bytes(shape: Shape, precision: Precision, training: Training) -> int:
    """Bytes of what the first block keeps, and of the gradients inside it: it is the last to be differentiated."""
    per_token = kept(precision, full=training.method == "full")
    left = per_token.checkpointed_block(shape) if training.gradient_checkpointing else 0.0
    return round(training.positions * (left + per_token.block(shape) + per_token.gradients_in_a_block(shape)))
