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
HEAD = "lm_head"
# Per logit of a chunk, if the head has an adapter: logits of both, their sum, and that over the norms.
ADAPTED_HEAD_BYTES = 4 * FLOAT32
# What an adapter keeps of each number of its layer's input: the noise of its dropout and the input with it.
ADAPTER_BYTES: dict[bool, float] = {False: 8.0, True: 6.25}  # by whether the precision is mixed
# Gradients of the adapter on down_proj in a block that is computed again, per token and unit of its width; measured.
RECOMPUTED_DOWN_BYTES = 7.5
# What the first block does not keep, since nothing before its first adapter has a gradient: bytes per token, times the
# hidden size and times the width of the feed-forward layers; measured. By whether the precision is mixed.
SKIPPED_BYTES: dict[bool, dict[str, tuple[float, float]]] = {
    False: {"W_pack": (0, 0), "o_proj": (24, 0), "gate_proj": (39, 0), "up_proj": (39, 0), "down_proj": (39, 11)},
    True: {"W_pack": (0, 0), "o_proj": (12, 0), "gate_proj": (21.5, 0), "up_proj": (21.5, 0), "down_proj": (21.5, 3.5)},
}


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
        if HEAD in self.lora_targets:
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
    block = per_token.block(shape) + _adapter_bytes(shape, precision, training)
    left, again = (per_token.checkpointed_block(shape), block) if training.gradient_checkpointing else (block, 0.0)
    # Mixed precision copies each trained weight once; gradient checkpointing drops the copies before going back.
    casts = HALF * shape.linear_parameters if full and mixed and casts_weights else 0
    casts_going_back = 0 if training.gradient_checkpointing else casts
    head_gradient = FLOAT32 * shape.head_parameters if full else 0
    at_the_loss = training.positions * per_token.ends * shape.hidden_size + _loss_bytes(shape, precision, training)
    if training.gradient_checkpointing and not full and "down_proj" in training.lora_targets:
        again += RECOMPUTED_DOWN_BYTES * shape.intermediate_size
    going_back = training.positions * (again + per_token.gradients_in_a_block(shape))
    besides_the_blocks = max(at_the_loss + casts, going_back + casts_going_back) + head_gradient
    skipped = 0.0 if training.gradient_checkpointing else _skipped_bytes(shape, precision, training)
    in_blocks = training.positions * (shape.layers * left - skipped)
    return round(in_blocks + besides_the_blocks) + precision.dequantized_layer_bytes(shape)


def _loss_bytes(shape: Shape, precision: Precision, training: Training) -> int:
    """Bytes at the loss: the logits of one chunk, and in mixed precision their copy and that of the head."""
    mixed = precision.dtype != "float32"
    chunk = max(1, CHUNK_LOGITS["cuda" if training.on_gpu else "cpu"] // shape.vocab_size)
    per_logit = FLOAT32 + (HALF if mixed else 0)
    adapter = 0.0
    if training.method == "lora" and HEAD in training.lora_targets:
        per_logit += ADAPTED_HEAD_BYTES
        adapter = ADAPTER_BYTES[mixed] * shape.hidden_size * min(chunk, training.positions)
    logits = min(chunk, training.positions) * shape.vocab_size * per_logit + round(adapter)
    return logits + (HALF * shape.head_parameters if mixed and training.method == "full" else 0)


def _last_block_bytes(shape: Shape, precision: Precision, training: Training) -> int:
    """Bytes of what the first block keeps, and of the gradients inside it: it is the last to be differentiated."""
    per_token = kept(precision, full=training.method == "full")
    left = per_token.checkpointed_block(shape) if training.gradient_checkpointing else 0.0
    block = per_token.block(shape) + _adapter_bytes(shape, precision, training)
    return round(training.positions * (left + block + per_token.gradients_in_a_block(shape)))


def _adapter_bytes(shape: Shape, precision: Precision, training: Training) -> float:
    """Bytes per token and block that adapters keep beyond one on W_pack alone, which `Kept` includes."""
    if training.method == "full":
        return 0.0
    inputs = dict.fromkeys(BLOCK_LAYERS, shape.hidden_size) | {"down_proj": shape.intermediate_size}
    kept_inputs = sum(inputs[name] for name in training.lora_targets if name in inputs)
    return float(ADAPTER_BYTES[precision.dtype != "float32"] * (kept_inputs - shape.hidden_size))


def _skipped_bytes(shape: Shape, precision: Precision, training: Training) -> float:
    """Bytes per token that the first block does not keep, since its adapters begin behind W_pack."""
    first = next((name for name in BLOCK_LAYERS if name in training.lora_targets), "W_pack")
    if training.method == "full":
        return 0.0
    hidden, intermediate = SKIPPED_BYTES[precision.dtype != "float32"][first]
    return float(hidden * shape.hidden_size + intermediate * shape.intermediate_size)
