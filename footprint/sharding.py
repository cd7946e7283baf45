"""Memory of fine-tuning by several processes (ranks), each with its own device.

What a rank holds all the time, for P numbers of which T are trained, N ranks and c bytes per number that is computed
in (4, or 2 in mixed precision):

| strategy | weights | float32 copies | moments | gradients |
| --- | --- | --- | --- | --- |
| single | 4 P | | 8 T | 4 T |
| ddp | 4 P | | 8 T | 4 T, and 4 T in the buckets that are exchanged |
| fsdp2 | 4 P / N | | 8 T / N | 4 T / N |
| zero2 | c P | 4 T / N | 8 T / N | c T / N |
| zero3 | c P / N | 4 T / N | 8 T / N | c T / N |

The frozen base of an adapter takes what its precision takes instead of 4 P or c P. `zero3-offload` has all that zero3
has in host memory. For a moment there are also the gathered weights of some layers, and their gradients before they are
exchanged. ZeRO: Rajbhandari et al. 2020 (arXiv 1910.02054); FSDP: Zhao et al. 2023 (arXiv 2304.11277).
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from .breakdown import Footprint
from .finetuning import FLOAT32, HALF, MOMENTS, Training, finetuning, sharded_activations
from .precision import Precision
from .shape import Shape

TrainingStrategy = Literal["single", "ddp", "fsdp2", "zero2", "zero3", "zero3-offload"]
TRAINING_STRATEGIES: tuple[TrainingStrategy, ...] = get_args(TrainingStrategy)

GATHERED_BLOCKS = 2  # the block that computes, and the next one, which is fetched meanwhile
# Defaults of DeepSpeed, in numbers: `reduce_bucket_size`, `stage3_max_live_parameters` and `sub_group_size`.
BUCKET_NUMBERS = 500_000_000
LIVE_NUMBERS = 1_000_000_000
STEP_NUMBERS = 1_000_000_000
BUCKETS = 2  # one is filled while another is exchanged


@dataclass(frozen=True, slots=True)
class RankFootprint:
    """Peak memory of one rank.

    Attributes:
        device: On its device.
        host: Bytes of host memory besides, for what is offloaded.
    """

    device: Footprint
    host: int = 0


def rank_footprint(
    shape: Shape, precision: Precision, training: Training, strategy: TrainingStrategy, ranks: int
) -> RankFootprint:
    """Estimate the memory of one of several ranks.

    Args:
        shape: Sizes of the model.
        precision: As for `finetuning`.
        training: How; `batch` is that of one rank.
        strategy: How the ranks share the work.
        ranks: Number of ranks, on all machines.
    """
    plain = finetuning(shape, precision, training)
    trained = training.trained_parameters(shape)
    match strategy:
        case "single":
            return RankFootprint(plain)
        case "ddp":
            buckets = trained * FLOAT32
            return RankFootprint(replace(plain, gradients=plain.gradients + buckets, least=plain.least + buckets))
        case "fsdp2":
            return RankFootprint(_fsdp2(shape, precision, training, ranks))
        case "zero2" | "zero3" | "zero3-offload":
            return _zero(shape, precision, training, strategy, ranks)


def _fsdp2(shape: Shape, precision: Precision, training: Training, ranks: int) -> Footprint:
    trained = training.trained_parameters(shape)
    block = shape.linear_parameters // shape.layers
    gathered = _computed_bytes(precision) * (GATHERED_BLOCKS * block + shape.head_parameters)
    exchanged = 0
    if training.method == "full":  # a gradient in the dtype that is computed in, and its float32 copy to be reduced
        largest = max(shape.head_parameters, GATHERED_BLOCKS * block)
        exchanged = (_computed_bytes(precision) + FLOAT32) * largest
    return _sum_up(
        weights=_share(_base_bytes(shape, precision, training, FLOAT32) + trained * FLOAT32, ranks) + gathered,
        gradients=_share(trained * FLOAT32, ranks) + exchanged,
        optimizer=_share(trained * FLOAT32 * MOMENTS, ranks),
        activations=sharded_activations(shape, precision, training),
    )


def _zero(
    shape: Shape, precision: Precision, training: Training, strategy: TrainingStrategy, ranks: int
) -> RankFootprint:
    computed, trained = _computed_bytes(precision), training.trained_parameters(shape)
    weights = _base_bytes(shape, precision, training, computed) + trained * computed
    master, moments = _share(trained * FLOAT32, ranks), _share(trained * FLOAT32 * MOMENTS, ranks)
    gradients = _share(trained * computed, ranks)
    buckets = BUCKETS * computed * min(trained, BUCKET_NUMBERS)
    step = 0 if computed == FLOAT32 else FLOAT32 * min(-(-trained // ranks), STEP_NUMBERS)
    activations = sharded_activations(shape, precision, training)
    if strategy == "zero2":
        step = 0 if computed == FLOAT32 else _share(trained * FLOAT32, ranks)  # its step has no parts
        return RankFootprint(_sum_up(weights + master, gradients + max(buckets, step), moments, activations))
    live = round(weights * min(1.0, LIVE_NUMBERS / shape.parameters))
    sharded = _share(weights, ranks)
    if strategy == "zero3":
        return RankFootprint(_sum_up(sharded + master + live, gradients + max(buckets, step), moments, activations))
    host = sharded + master + moments + _share(trained * FLOAT32, ranks)
    return RankFootprint(_sum_up(live, buckets, 0, activations), host)


def _sum_up(weights: int, gradients: int, optimizer: int, activations: int) -> Footprint:
    least = weights + gradients + optimizer
    return Footprint(weights, activations=activations, gradients=gradients, optimizer=optimizer, least=least)


def _base_bytes(shape: Shape, precision: Precision, training: Training, number_bytes: int) -> int:
    """Bytes of the weights that are not trained, where a trained number takes `number_bytes`."""
    if training.method == "full":
        return (shape.parameters - training.trained_parameters(shape)) * number_bytes
    return precision.weight_bytes(shape)


def _computed_bytes(precision: Precision) -> int:
    return FLOAT32 if precision.dtype == "float32" else HALF


def _share(count: int, ranks: int) -> int:
    return -(-count // ranks)
