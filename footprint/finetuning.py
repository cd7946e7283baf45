"""Memory that `baichuan_core.finetuning` needs, with AdamW and with trained weights and gradients in float32.

Memory can peak at three points of a step, and the estimate is the largest of the three peaks:

- at the loss: all tensors for the backward pass exist, but only the head has a gradient (with gradient accumulation,
  all weights have one from earlier batches);
- in the last block of the backward pass: nearly all gradients exist, as well as the tensors of this block;
- after the backward pass: all gradients exist, but no activations.
"""

from dataclasses import dataclass, replace
from typing import Literal

from .activations import get_saved_activations
from .breakdown import Footprint
from .precision import DTYPE_BYTES, Precision
from .shape import ModelShape

FinetuningMethod = Literal["full", "lora"]

FLOAT32_BYTES = DTYPE_BYTES["float32"]
MOMENTS_PER_WEIGHT = 2  # AdamW keeps running means of the gradients and of their squares
HALF_PRECISION_BYTES = DTYPE_BYTES["bfloat16"]
# Number of logits that the loss computes at once, by device type, as in `baichuan_core.model.chunked_loss`.
MAX_LOGITS_PER_CHUNK = {"cpu": 2**24, "cuda": 2**27}
BLOCK_LAYERS = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")
HEAD_LAYER = "lm_head"
# Bytes per logit of a chunk if the head has an adapter: the logits of the head and of the adapter, their sum, and the
# sum divided by the norms.
ADAPTED_HEAD_BYTES_PER_LOGIT = 4 * FLOAT32_BYTES
# Bytes that an adapter keeps for the backward pass (the dropout mask and the masked input), per element of its input;
# keyed by whether precision is mixed.
ADAPTER_BYTES_PER_ELEMENT: dict[bool, float] = {False: 8.0, True: 6.25}
# Measured gradient bytes of the adapter on down_proj in a recomputed block, per token and per unit of input width.
RECOMPUTED_DOWN_PROJ_BYTES_PER_UNIT = 7.5
# Measured bytes per token that the first block need not keep, because the tensors before its first adapter need no
# gradient. Keyed by whether precision is mixed, then by the first layer with an adapter; the values are (bytes per unit
# of hidden size, bytes per unit of feed-forward width).
SKIPPED_BYTES_PER_UNIT: dict[bool, dict[str, tuple[float, float]]] = {
    False: {"W_pack": (0, 0), "o_proj": (24, 0), "gate_proj": (39, 0), "up_proj": (39, 0), "down_proj": (39, 11)},
    True: {"W_pack": (0, 0), "o_proj": (12, 0), "gate_proj": (21.5, 0), "up_proj": (21.5, 0), "down_proj": (21.5, 3.5)},
}


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Training settings that affect memory use.

    Attributes:
        method: "full" trains every weight, "lora" an adapter.
        batch: Examples per batch.
        tokens: Length of the longest example.
        lora_rank: Rank of the adapter.
        lora_targets: Linear layers that have an adapter, by the last part of their name.
        gradient_checkpointing: Whether most activations are recomputed instead of saved.
        accumulation: Batches per optimizer step.
        on_gpu: Whether training runs on a GPU, which computes the loss in larger chunks.
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
    def tokens_per_pass(self) -> int:
        """Number of tokens in one forward pass."""
        return self.batch * self.tokens

    def count_trained_parameters(self, shape: ModelShape) -> int:
        """Return the number of trained parameters."""
        if self.method == "full":
            return shape.parameter_count
        matrices = dict(zip(BLOCK_LAYERS, shape.layer_matrices, strict=True))
        adapted = [matrices[name] for name in self.lora_targets if name in matrices] * shape.layers
        if HEAD_LAYER in self.lora_targets:
            adapted.append((shape.vocab_size, shape.hidden_size))
        return self.lora_rank * sum(rows + columns for rows, columns in adapted)


def estimate_finetuning(shape: ModelShape, precision: Precision, training: TrainingSettings) -> Footprint:
    """Estimate the memory for training a model on one device.

    Args:
        shape: Sizes of the model.
        precision: Precision of an adapter's base, and the compute dtype; bfloat16 means mixed precision. Full
            training always has float32 weights.
        training: The training settings.
    """
    trained = training.count_trained_parameters(shape)
    weights = _weight_bytes(shape, precision, training, trained)
    gradients, moments = trained * FLOAT32_BYTES, trained * FLOAT32_BYTES * MOMENTS_PER_WEIGHT
    after_backward = Footprint(weights, gradients=gradients, optimizer=moments, least=weights + gradients + moments)
    missing = FLOAT32_BYTES * (shape.head_parameter_count + shape.linear_parameter_count // shape.layers)
    in_last_block = replace(
        after_backward,
        activations=_last_block_bytes(shape, precision, training),
        gradients=gradients if training.accumulation > 1 else max(0, gradients - missing),
    )
    at_loss = replace(
        after_backward,
        activations=_loss_peak_bytes(shape, precision, training),
        gradients=gradients if training.accumulation > 1 else 0,
    )
    return max(at_loss, in_last_block, after_backward, key=lambda peak: peak.total)


def sharded_activation_bytes(shape: ModelShape, precision: Precision, training: TrainingSettings) -> int:
    """Return the bytes of the activations if sharded weights are gathered in the compute dtype."""
    return max(
        _loss_peak_bytes(shape, precision, training, casts_weights=False), _last_block_bytes(shape, precision, training)
    )


def _weight_bytes(shape: ModelShape, precision: Precision, training: TrainingSettings, trained: int) -> int:
    """Return the bytes of the weights; full training keeps all of them in float32."""
    if training.method == "full":
        return trained * FLOAT32_BYTES
    return precision.weight_bytes(shape) + trained * FLOAT32_BYTES


def _loss_peak_bytes(
    shape: ModelShape, precision: Precision, training: TrainingSettings, *, casts_weights: bool = True
) -> int:
    """Return the peak bytes, without weights and moments, of the loss and the first block of the backward pass."""
    full, mixed = training.method == "full", precision.dtype != "float32"
    per_token = get_saved_activations(precision, full=full)
    block = per_token.block_bytes(shape) + _adapter_bytes_per_token(shape, precision, training)
    saved, recomputed = (
        (per_token.checkpointed_block_bytes(shape), block) if training.gradient_checkpointing else (block, 0.0)
    )
    # Mixed precision copies each trained weight once; gradient checkpointing frees the copies before the backward pass.
    casts = HALF_PRECISION_BYTES * shape.linear_parameter_count if full and mixed and casts_weights else 0
    backward_casts = 0 if training.gradient_checkpointing else casts
    head_gradient = FLOAT32_BYTES * shape.head_parameter_count if full else 0
    outside_blocks = training.tokens_per_pass * per_token.outside_blocks * shape.hidden_size
    at_loss = outside_blocks + _loss_bytes(shape, precision, training)
    if training.gradient_checkpointing and not full and "down_proj" in training.lora_targets:
        recomputed += RECOMPUTED_DOWN_PROJ_BYTES_PER_UNIT * shape.intermediate_size
    backward = training.tokens_per_pass * (recomputed + per_token.block_gradient_bytes(shape))
    besides_blocks = max(at_loss + casts, backward + backward_casts) + head_gradient
    skipped = 0.0 if training.gradient_checkpointing else _skipped_bytes_per_token(shape, precision, training)
    in_blocks = training.tokens_per_pass * (shape.layers * saved - skipped)
    return round(in_blocks + besides_blocks) + precision.dequantized_layer_bytes(shape)


def _loss_bytes(shape: ModelShape, precision: Precision, training: TrainingSettings) -> int:
    """Return the bytes that the loss needs: the logits of one chunk and, in mixed precision, half-precision copies."""
    mixed = precision.dtype != "float32"
    chunk = max(1, MAX_LOGITS_PER_CHUNK["cuda" if training.on_gpu else "cpu"] // shape.vocab_size)
    per_logit = FLOAT32_BYTES + (HALF_PRECISION_BYTES if mixed else 0)
    adapter = 0.0
    if training.method == "lora" and HEAD_LAYER in training.lora_targets:
        per_logit += ADAPTED_HEAD_BYTES_PER_LOGIT
        adapter = ADAPTER_BYTES_PER_ELEMENT[mixed] * shape.hidden_size * min(chunk, training.tokens_per_pass)
    logits = min(chunk, training.tokens_per_pass) * shape.vocab_size * per_logit + round(adapter)
    return logits + (HALF_PRECISION_BYTES * shape.head_parameter_count if mixed and training.method == "full" else 0)


def _last_block_bytes(shape: ModelShape, precision: Precision, training: TrainingSettings) -> int:
    """Return the bytes kept by the first block, which the backward pass reaches last, plus those of its gradients."""
    per_token = get_saved_activations(precision, full=training.method == "full")
    checkpointed = per_token.checkpointed_block_bytes(shape) if training.gradient_checkpointing else 0.0
    block = per_token.block_bytes(shape) + _adapter_bytes_per_token(shape, precision, training)
    return round(training.tokens_per_pass * (checkpointed + block + per_token.block_gradient_bytes(shape)))


def _adapter_bytes_per_token(shape: ModelShape, precision: Precision, training: TrainingSettings) -> float:
    """Return the bytes that adapters keep for the backward pass, per token and block.

    The adapter on W_pack is not counted, because `SavedActivations` includes it.
    """
    if training.method == "full":
        return 0.0
    inputs = dict.fromkeys(BLOCK_LAYERS, shape.hidden_size) | {"down_proj": shape.intermediate_size}
    saved_inputs = sum(inputs[name] for name in training.lora_targets if name in inputs)
    return float(ADAPTER_BYTES_PER_ELEMENT[precision.dtype != "float32"] * (saved_inputs - shape.hidden_size))


def _skipped_bytes_per_token(shape: ModelShape, precision: Precision, training: TrainingSettings) -> float:
    """Return the bytes per token that the first block need not keep if its first adapter comes after W_pack."""
    first = next((name for name in BLOCK_LAYERS if name in training.lora_targets), "W_pack")
    if training.method == "full":
        return 0.0
    hidden, intermediate = SKIPPED_BYTES_PER_UNIT[precision.dtype != "float32"][first]
    return float(hidden * shape.hidden_size + intermediate * shape.intermediate_size)
