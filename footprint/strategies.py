"""Choose how several devices share a fine-tune, by the memory that each way needs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .breakdown import in_gib
from .finetuning import Training
from .precision import Precision
from .remedies import PRECISIONS
from .shape import Shape
from .sharding import RankFootprint, TrainingStrategy, rank_footprint

CONTEXT_BYTES = 2**30  # of each GPU: CUDA's context and the buffers of NCCL
MAX_DEVICES = 4096  # that are considered when asking how many would do
REPLICAS: tuple[TrainingStrategy, ...] = ("single", "ddp")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Machines with equal devices.

    Attributes:
        devices: Devices per machine, which is also the number of ranks per machine; without GPUs the ranks share the
            host memory.
        device_bytes: Memory of each GPU; ignored without GPUs.
        host_bytes: Host memory of each machine.
        nodes: Number of machines.
        on_gpu: Whether the devices are GPUs.
    """

    devices: int
    device_bytes: int
    host_bytes: int
    nodes: int = 1
    on_gpu: bool = True

    @property
    def ranks(self) -> int:
        """Number of ranks on all machines."""
        return self.devices * self.nodes

    @property
    def rank_bytes(self) -> int:
        """Memory that one rank can take of its device."""
        return max(0, self.device_bytes - CONTEXT_BYTES) if self.on_gpu else self.host_bytes // self.devices

    @property
    def rank_host_bytes(self) -> int:
        """Host memory that one rank can take."""
        return self.host_bytes // self.devices

    def has_room_for(self, needs: RankFootprint, *, least: bool = False) -> bool:
        """Return whether each rank fits, or at least its part that is independent of the lengths of the inputs."""
        device = needs.device.least if least else needs.device.total
        return device <= self.rank_bytes and needs.host <= self.rank_host_bytes


@dataclass(frozen=True, slots=True)
class StrategyChoice:
    """A strategy, and why it was chosen.

    Attributes:
        strategy: The strategy.
        reason: One sentence with the numbers.
        needs: Memory of each rank.
    """

    strategy: TrainingStrategy
    reason: str
    needs: RankFootprint


def choose_strategy(
    shape: Shape, precision: Precision, training: Training, cluster: Cluster, *, may_shard: bool = True
) -> StrategyChoice | None:
    """Choose the fastest strategy that fits: replicas, then sharded weights, then weights in host memory.

    If none holds the longest inputs, the first one is taken that holds everything else.

    Args:
        shape: Sizes of the model.
        precision: As for `finetuning`.
        training: How; `batch` is that of one rank.
        cluster: Where.
        may_shard: Whether the weights may be sharded; quantized ones never are.

    Returns:
        None if nothing fits; see `explain_misfit`.
    """
    candidates = {
        name: rank_footprint(shape, precision, training, name, cluster.ranks)
        for name in _candidates(precision, cluster, may_shard=may_shard)
    }
    for least in (False, True):
        before: list[str] = []
        for name, needs in candidates.items():
            if cluster.has_room_for(needs, least=least):
                doubt = "; inputs of the maximum length may not fit" if least else ""
                return StrategyChoice(name, f"{_reason(name, needs, before, cluster)}{doubt}", needs)
            before.append(f"{name} would need {_describe(needs)}")
    return None


def explain_misfit(
    shape: Shape,
    precision: Precision,
    training: Training,
    cluster: Cluster,
    strategy: TrainingStrategy | None = None,
    *,
    may_shard: bool = True,
) -> str:
    """Say with numbers why a fine-tune does not fit, and what would.

    Args:
        shape: Sizes of the model.
        precision: As for `finetuning`.
        training: How.
        cluster: Where.
        strategy: The only one that is allowed; None for all.
        may_shard: Whether the weights may be sharded.
    """
    names = _candidates(precision, cluster, may_shard=may_shard) if strategy is None else (strategy,)
    needed = [
        f"{_describe(rank_footprint(shape, precision, training, name, cluster.ranks), least=True)} with {name}"
        for name in names
    ]
    host = f" and {in_gib(cluster.rank_host_bytes)} of host memory" if cluster.on_gpu else ""
    remedies = [
        f"{way}: {_describe(needs, least=True)}" for way, needs in _remedies(shape, precision, training, cluster)
    ]
    return (
        f"each of {cluster.ranks} processes needs at least {', or '.join(needed)}, and has {in_gib(cluster.rank_bytes)}"
        f"{host}; {'what would fit: ' + ', '.join(remedies) if remedies else 'use machines with more'}"
    )


def _candidates(precision: Precision, cluster: Cluster, *, may_shard: bool) -> tuple[TrainingStrategy, ...]:
    """Return the strategies to choose from, the fastest first; quantized weights cannot be sharded."""
    replicas: TrainingStrategy = "single" if cluster.ranks == 1 else "ddp"
    if precision.quantization is not None or not may_shard:
        return (replicas,)
    sharded: tuple[TrainingStrategy, ...] = () if cluster.ranks == 1 else ("fsdp2",)
    offloaded: tuple[TrainingStrategy, ...] = ("zero3-offload",) if cluster.on_gpu else ()
    return (replicas, *sharded, *offloaded)


def _reason(name: TrainingStrategy, needs: RankFootprint, before: list[str], cluster: Cluster) -> str:
    place = "device" if cluster.on_gpu else "process"
    fits = f"{_describe(needs)} of {in_gib(cluster.rank_bytes)} per {place} are needed"
    meaning = {
        "single": "there is one device",
        "ddp": "every device holds the whole model",
        "fsdp2": "weights, gradients and optimizer are sharded over the devices",
        "zero3-offload": "weights and optimizer are in host memory",
    }[name]
    return "; ".join([f"{meaning}: {fits}", *before])


def _describe(needs: RankFootprint, *, least: bool = False) -> str:
    device = in_gib(needs.device.least if least else needs.device.total)
    return f"{device} and {in_gib(needs.host)} of host memory" if needs.host else device


def _remedies(
    shape: Shape, precision: Precision, training: Training, cluster: Cluster
) -> Iterator[tuple[str, RankFootprint]]:
    """Yield ways that fit: more devices of the same kind, and adapters on smaller bases."""
    if precision.quantization is None:
        devices = 2 * cluster.ranks
        while devices <= MAX_DEVICES:
            needs = rank_footprint(shape, precision, training, "fsdp2", devices)
            if needs.device.least <= cluster.rank_bytes:
                yield f"fsdp2 on {devices} such devices", needs
                break
            devices *= 2
    replicas: TrainingStrategy = "single" if cluster.ranks == 1 else "ddp"
    for smaller in PRECISIONS:
        held = replace(smaller, dtype=precision.dtype)
        lora = replace(training, method="lora")
        if held.weight_bytes(shape) >= precision.weight_bytes(shape) and training.method == "lora":
            continue
        needs = rank_footprint(shape, held, lora, replicas, cluster.ranks)
        if cluster.has_room_for(needs, least=True):
            yield f"method lora on {held.label} with {replicas}", needs
