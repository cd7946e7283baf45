"""Memory of fine-tuning as `baichuan_core.finetuning` does it: float32 trained weights and gradients, AdamW.

Three moments can be the one of most memory. When the loss is computed, everything that the backward pass needs is kept
and only the head has a gradient (and all weights, if earlier batches of the same step left theirs). In its last block
there are nearly all gradients, and what this block needs. When it has ended there are all of them and nothing else.
The largest counts.
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
HALF = DTYPE_BYTES["bfloat16"]
# Logits in one chunk of the loss, by the kind of device; as in `baichuan_core.model.chunked_loss`.
CHUNK_LOGITS = {"cpu": 2**24, "cuda": 2**27}
BLOCK_LAYERS = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained.

    Attributes:
        method: "full" trains every weight, "lora" an adapter.
        batch: Examples a batch.
        tokens: Length of the longest example.
        lora_rank: Of the adapter.
        lora_targets: Linear layers that have an adapter, by the last part of their name.
        gradient_checkpointing: Whether activations are computed twice and few of them kept.
        accumulation: Batches per step.
        on_gpu: Whether the chunks of the loss are those of a GPU.
    """

    method: FinetuningMethod = "full"
    batch: int = 1
    tokens: int = 512
    lora_rank: int = 8
    lora_targets: tuple[str, ...] = ("W_pack",)
    gradient_checkpointing: bool = True
    accumulation: int = 1
    on_gpu: bool = True

    @property
    def positions(self) -> int:
        """Tokens in one forward pass."""
        return self.batch * self.tokens

    def trained_parameters(self, shape: Shape) -> int:
        """How many numbers are trained."""
        if self.method == "full":
            return shape.parameters
        of_blocks = dict(zip(BLOCK_LAYERS, shape.layer_matrices, strict=True))
        adapted = [of_blocks[name] for name in self.lora_targets if name in of_blocks] * shape.layers
        if "lm_head" in self.lora_targets:
            adapted.append((shape.vocab_size, shape.hidden_size))
        return self.lora_rank * sum(rows + columns for rows, columns in adapted)


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
    missing = FLOAT32 * (shape.head_parameters + shape.linear_parameters // shape.layers)
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


def sharded_activations(shape: Shape, precision: Precision, training: Training) -> int:
    """Bytes of the activations of a model whose weights are gathered in the dtype that is computed in."""
    return max(
        _first_bytes(shape, precision, training, casts_weights=False), _last_block_bytes(shape, precision, training)
    )


def _weights(shape: Shape, precision: Precision, training: Training, trained: int) -> int:
    """Bytes of the weights; full training has all of them in float32."""
    if training.method == "full":
        return trained * FLOAT32
    return precision.weight_bytes(shape) + trained * FLOAT32


def _first_bytes(shape: Shape, precision: Precision, training: Training, *, casts_weights: bool = True) -> int:
    """Bytes besides weights and moments before gradients of the blocks exist: at the loss, or in the last block."""
    full, mixed = training.method == "full", precision.dtype != "float32"
    per_token = kept(precision, full=full)
    block = per_token.block(shape)
    left, again = (per_token.checkpointed_block(shape), block) if training.gradient_checkpointing else (block, 0.0)
    # Mixed precision copies each trained weight once; gradient checkpointing drops the copies before going back.
    casts = HALF * shape.linear_parameters if full and mixed and casts_weights else 0
    casts_going_back = 0 if training.gradient_checkpointing else casts
    head_gradient = FLOAT32 * shape.head_parameters if full else 0
    at_the_loss = training.positions * per_token.ends * shape.hidden_size + _loss_bytes(shape, precision, training)
    going_back = training.positions * (again + per_token.gradients_in_a_block(shape))
    besides_the_blocks = max(at_the_loss + casts, going_back + casts_going_back) + head_gradient
    return round(training.positions * shape.layers * left + besides_the_blocks) + precision.dequantized_layer_bytes(
        shape
    )


def _loss_bytes(shape: Shape, precision: Precision, training: Training) -> int:
    """Bytes at the loss: the logits of one chunk, and in mixed precision their copy and that of the head."""
    mixed = precision.dtype != "float32"
    chunk = max(1, CHUNK_LOGITS["cuda" if training.on_gpu else "cpu"] // shape.vocab_size)
    logits = min(chunk, training.positions) * shape.vocab_size * (FLOAT32 + (HALF if mixed else 0))
    return logits + (HALF * shape.head_parameters if mixed and training.method == "full" else 0)


def _last_block_bytes(shape: Shape, precision: Precision, training: Training) -> int:
    """Bytes of what the first block keeps, and of the gradients inside it: it is the last to be differentiated."""
    per_token = kept(precision, full=training.method == "full")
    left = per_token.checkpointed_block(shape) if training.gradient_checkpointing else 0.0
    return round(training.positions * (left + per_token.block(shape) + per_token.gradients_in_a_block(shape)))
