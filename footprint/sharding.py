"""Memory for fine-tuning in several processes (ranks), each with its own device.

The persistent memory of one rank, in bytes, for a model of P parameters of which T are trained, N ranks, and c bytes
per element of the compute dtype (4, or 2 in mixed precision):

| strategy | weights | float32 copies | moments | gradients |
| --- | --- | --- | --- | --- |
| single | 4 P | | 8 T | 4 T |
| ddp | 4 P | | 8 T | 4 T, and 4 T in the buckets for the exchange |
| fsdp2 | 4 P / N | | 8 T / N | 4 T / N |
| zero2 | c P | 4 T / N | 8 T / N | c T / N |
| zero3 | c P / N | 4 T / N | 8 T / N | c T / N |

The frozen base of an adapter takes the bytes of its own precision instead of 4 P or c P. `zero3-offload` keeps all of
this in host memory. The gathered weights of some layers, and their gradients before the exchange, exist only briefly.
ZeRO: Rajbhandari et al. 2020 (arXiv 1910.02054); FSDP: Zhao et al. 2023 (arXiv 2304.11277).
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from .breakdown import Footprint
from .finetuning import (
    FLOAT32_BYTES,
    HALF_PRECISION_BYTES,
    MOMENTS_PER_WEIGHT,
    TrainingSettings,
    estimate_finetuning,
    sharded_activation_bytes,
)
from .precision import Precision
from .shape import ModelShape

TrainingStrategy = Literal["single", "ddp", "fsdp2", "zero2", "zero3", "zero3-offload"]
TRAINING_STRATEGIES: tuple[TrainingStrategy, ...] = get_args(TrainingStrategy)

GATHERED_BLOCKS = 2  # the block being computed and the next one, which is prefetched
# DeepSpeed's defaults for `reduce_bucket_size`, `stage3_max_live_parameters` and `sub_group_size`, in elements.
BUCKET_ELEMENTS = 500_000_000
MAX_LIVE_ELEMENTS = 1_000_000_000
SUB_GROUP_ELEMENTS = 1_000_000_000
BUCKET_COUNT = 2  # one bucket is being filled while another is exchanged


@dataclass(frozen=True, slots=True)
class RankFootprint:
    """Peak memory of one rank.

    Attributes:
        device: Memory of its device.
        host: Additional host memory for offloaded tensors, in bytes.
    """

    device: Footprint
    host: int = 0


def estimate_rank_footprint(
    shape: ModelShape, precision: Precision, training: TrainingSettings, strategy: TrainingStrategy, rank_count: int
) -> RankFootprint:
    """Estimate the memory that one rank needs.

    Args:
        shape: Sizes of the model.
        precision: As for `estimate_finetuning`.
        training: The training settings; `batch` is that of one rank.
        strategy: How the ranks share the work.
        rank_count: Total number of ranks on all machines.
    """
    single = estimate_finetuning(shape, precision, training)
    trained = training.count_trained_parameters(shape)
    match strategy:
        case "single":
            return RankFootprint(single)
        case "ddp":
            buckets = trained * FLOAT32_BYTES
            return RankFootprint(replace(single, gradients=single.gradients + buckets, least=single.least + buckets))
        case "fsdp2":
            return RankFootprint(_estimate_fsdp2(shape, precision, training, rank_count))
        case "zero2" | "zero3" | "zero3-offload":
            return _estimate_deepspeed_zero(shape, precision, training, strategy, rank_count)


def _estimate_fsdp2(shape: ModelShape, precision: Precision, training: TrainingSettings, rank_count: int) -> Footprint:
    trained = training.count_trained_parameters(shape)
    block = shape.linear_parameter_count // shape.layers
    gathered = _bytes_per_element(precision) * (GATHERED_BLOCKS * block + shape.head_parameter_count)
    exchanged = 0
    if training.method == "full":  # gradients in the compute dtype, and their float32 copies for the reduction
        largest = max(shape.head_parameter_count, GATHERED_BLOCKS * block)
        exchanged = (_bytes_per_element(precision) + FLOAT32_BYTES) * largest
    return _build_footprint(
        weights=_divide_among_ranks(
            _frozen_weight_bytes(shape, precision, training, FLOAT32_BYTES) + trained * FLOAT32_BYTES, rank_count
        )
        + gathered,
        gradients=_divide_among_ranks(trained * FLOAT32_BYTES, rank_count) + exchanged,
        optimizer=_divide_among_ranks(trained * FLOAT32_BYTES * MOMENTS_PER_WEIGHT, rank_count),
        activations=sharded_activation_bytes(shape, precision, training),
    )


def _estimate_deepspeed_zero(
    shape: ModelShape, precision: Precision, training: TrainingSettings, strategy: TrainingStrategy, rank_count: int
) -> RankFootprint:
    element_bytes, trained = _bytes_per_element(precision), training.count_trained_parameters(shape)
    weights = _frozen_weight_bytes(shape, precision, training, element_bytes) + trained * element_bytes
    master, moments = (
        _divide_among_ranks(trained * FLOAT32_BYTES, rank_count),
        _divide_among_ranks(trained * FLOAT32_BYTES * MOMENTS_PER_WEIGHT, rank_count),
    )
    gradients = _divide_among_ranks(trained * element_bytes, rank_count)
    buckets = BUCKET_COUNT * element_bytes * min(trained, BUCKET_ELEMENTS)
    step = 0 if element_bytes == FLOAT32_BYTES else FLOAT32_BYTES * min(-(-trained // rank_count), SUB_GROUP_ELEMENTS)
    activations = sharded_activation_bytes(shape, precision, training)
    if strategy == "zero2":
        # ZeRO stage 2 does not split the optimizer step into sub-groups.
        step = 0 if element_bytes == FLOAT32_BYTES else _divide_among_ranks(trained * FLOAT32_BYTES, rank_count)
        return RankFootprint(_build_footprint(weights + master, gradients + max(buckets, step), moments, activations))
    live = round(weights * min(1.0, MAX_LIVE_ELEMENTS / shape.parameter_count))
    sharded = _divide_among_ranks(weights, rank_count)
    if strategy == "zero3":
        return RankFootprint(
            _build_footprint(sharded + master + live, gradients + max(buckets, step), moments, activations)
        )
    host = sharded + master + moments + _divide_among_ranks(trained * FLOAT32_BYTES, rank_count)
    return RankFootprint(_build_footprint(live, buckets, 0, activations), host)


def _build_footprint(weights: int, gradients: int, optimizer: int, activations: int) -> Footprint:
    least = weights + gradients + optimizer
    return Footprint(weights, activations=activations, gradients=gradients, optimizer=optimizer, least=least)


def _frozen_weight_bytes(
    shape: ModelShape, precision: Precision, training: TrainingSettings, element_bytes: int
) -> int:
    """Return the bytes of the frozen weights, with `element_bytes` per element in full training."""
    if training.method == "full":
        return (shape.parameter_count - training.count_trained_parameters(shape)) * element_bytes
    return precision.weight_bytes(shape)


def _bytes_per_element(precision: Precision) -> int:
    """Return the bytes per element of the compute dtype."""
    return FLOAT32_BYTES if precision.dtype == "float32" else HALF_PRECISION_BYTES


def _divide_among_ranks(count: int, rank_count: int) -> int:
    """Return the share of one rank, rounded up."""
    return -(-count // rank_count)
